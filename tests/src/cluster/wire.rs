//! Calls of which the caller controls every byte: messages that no library would encode, and
//! frames that no library would send.

use bytes::{Buf, BufMut, Bytes};
use coretex::Error;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::in_time;

/// The most bytes of an answer: more than any server may send.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Passes messages through as bytes.
#[derive(Clone, Copy, Debug, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// How a call is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner<'a> {
    /// The credential; empty = none.
    pub key: &'a str,
    /// Compress the message.
    pub gzip: bool,
}

/// Calls an RPC with a message of these bytes and returns the bytes of its first answer.
///
/// # Errors
/// What the server says instead.
///
/// # Panics
/// `path` is none.
pub async fn call(
    channel: &Channel,
    path: &str,
    message: Bytes,
    manner: Manner<'_>,
) -> Result<Bytes, Error> {
    let path: PathAndQuery = path
        .parse()
        .unwrap_or_else(|error| panic!("{path:?} is no path: {error}"));
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    if manner.gzip {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    let mut request = Request::new(message);
    authorize(request.metadata_mut(), manner.key);
    let calling = async {
        grpc.ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        // A stream of answers is read like a single one: the bytes on the wire are the same.
        let answer = grpc.server_streaming(request, path, BytesCodec).await?;
        let first = answer.into_inner().message().await?;
        first.ok_or_else(|| Status::ok("no answer"))
    };
    Ok(in_time("an answer", calling).await?)
}

/// Adds a credential to a call; none when it is empty.
///
/// # Panics
/// It holds what cannot be sent.
pub fn authorize(metadata: &mut MetadataMap, key: &str) {
    if key.is_empty() {
        return;
    }
    match format!("Bearer {key}").parse() {
        Ok(value) => {
            metadata.insert("authorization", value);
        }
        Err(_) => panic!("a key that cannot be sent"),
    }
}

/// What a client says first in HTTP/2.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames of HTTP/2.
pub mod kind {
    /// Part of a body.
    pub const DATA: u8 = 0;
    /// Begins a request.
    pub const HEADERS: u8 = 1;
    /// Gives a stream up.
    pub const RST_STREAM: u8 = 3;
    /// Parameters of a connection.
    pub const SETTINGS: u8 = 4;
    /// Asks for a sign of life.
    pub const PING: u8 = 6;
    /// Goes on with headers.
    pub const CONTINUATION: u8 = 9;
}

/// The flag of a frame after which no more headers come.
pub const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.extend_from_slice(&length.to_be_bytes()[1..]);
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Headers, each with its name and value spelt out.
///
/// # Panics
/// One is longer than 126 bytes, which takes another form.
#[must_use]
pub fn headers(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        // Literal, not indexed, new name.
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "{text:?} is too long");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The frame that begins a call.
#[must_use]
pub fn begin_call(stream: u32, path: &str) -> Vec<u8> {
    let block = headers(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    frame(kind::HEADERS, END_HEADERS, stream, &block)
}

/// The beginning of a connection: preface and empty settings.
#[must_use]
pub fn begin_connection() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
    bytes
}
