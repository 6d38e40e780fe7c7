//! What is not gRPC, not HTTP/2, or not any protocol at all.

use coretex_tests::cluster::in_time;
use coretex_tests::cluster::server::Options;
use coretex_tests::cluster::wire::{
    END_HEADERS, PREFACE, begin_call, begin_connection, frame, headers, kind,
};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bystander::Scene;

const SUBMIT: &str = "/coretex.v1.JobService/SubmitJob";

/// Sends bytes, hangs up or not, and waits until the server has hung up too or has said enough.
async fn send(scene: &Scene, bytes: &[u8], hang_up: bool) {
    let mut stream = TcpStream::connect(scene.server.address()).await.unwrap();
    // The server may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    if hang_up {
        let _ = stream.shutdown().await;
    }
    let mut answer = vec![0; 64 * 1024];
    let mut heard = 0;
    let reading = async {
        while heard < answer.len() {
            match stream.read(&mut answer[heard..]).await {
                Ok(0) | Err(_) => break,
                Ok(more) => heard += more,
            }
        }
    };
    in_time("the server to hang up", reading).await;
}

/// Bytes that look random and are the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| next() as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_protocol_end_their_connection_and_nothing_else() {
    let mut scene = Scene::start(Options::new()).await;
    let mut tries: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0".to_vec(),
        b"hello?\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /coretex.v1.JobService/SubmitJob HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nx"
            .to_vec(),
        [
            b"GET /".to_vec(),
            vec![b'a'; 200_000],
            b" HTTP/1.1\r\n\r\n".to_vec(),
        ]
        .concat(),
        [b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(20_000)].concat(),
        // The first words of TLS.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &noise(7, 4_096)].concat(),
    ];
    tries.extend((0..40).map(|seed| noise(seed, 1 << (seed % 15))));
    for bytes in &tries {
        send(&scene, bytes, true).await;
    }
    scene.works().await;
    scene.grew_at_most(48);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_rules_of_http_2_end_their_connection_and_nothing_else() {
    let mut scene = Scene::start(Options::new()).await;
    let ordinary = begin_call(1, SUBMIT);
    let huge_header = headers(&[("x", "y")]).repeat(10_000);
    let lying_length = [&[0xff, 0xff, 0xff], &frame(kind::DATA, 0, 1, b"x")[3..]].concat();
    let no_path = headers(&[(":method", "POST"), ("content-type", "application/grpc")]);
    let broken: Vec<Vec<u8>> = vec![
        frame(kind::DATA, 0, 0, b"a stream that cannot be"),
        frame(kind::DATA, 0, 99, b"a stream that nobody opened"),
        frame(kind::SETTINGS, 0, 0, b"five!"),
        frame(kind::HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(kind::HEADERS, END_HEADERS, 1, &no_path),
        frame(
            kind::HEADERS,
            END_HEADERS,
            2,
            &headers(&[(":method", "POST")]),
        ),
        frame(kind::CONTINUATION, END_HEADERS, 1, b"of nothing"),
        frame(0xee, 0xff, 0x7fff_ffff, &noise(1, 100)),
        lying_length,
        [ordinary.clone(), ordinary.clone()].concat(),
        [
            frame(kind::HEADERS, 0, 1, &huge_header[..16_000]),
            frame(kind::CONTINUATION, 0, 1, &huge_header[..16_000]).repeat(20),
        ]
        .concat(),
        // Messages of gRPC that promise more than they hold, or are said to be compressed.
        [
            ordinary.clone(),
            frame(kind::DATA, 1, 1, b"\0\0\0\0\xffonly this"),
        ]
        .concat(),
        [
            ordinary.clone(),
            frame(kind::DATA, 1, 1, b"\0\xff\xff\xff\xff"),
        ]
        .concat(),
        [
            ordinary.clone(),
            frame(kind::DATA, 1, 1, b"\x01\0\0\0\x02no"),
        ]
        .concat(),
        [ordinary, frame(kind::DATA, 1, 1, b"\x07\0\0\0\x00")].concat(),
        begin_call(1, "/no/such"),
        begin_call(1, "*"),
    ];
    for frames in &broken {
        send(&scene, &[begin_connection(), frames.clone()].concat(), true).await;
    }
    scene.works().await;
    scene.grew_at_most(48);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_small_frames_are_cut_or_answered_and_cost_little() {
    let mut scene = Scene::start(Options::new()).await;
    let resets = (0..20_000_u32).flat_map(|n| {
        let stream = 2 * n + 1;
        let reset = frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [begin_call(stream, SUBMIT), reset].concat()
    });
    let resets: Vec<u8> = resets.collect();
    let pings = frame(kind::PING, 0, 0, &[7; 8]).repeat(50_000);
    let settings = frame(kind::SETTINGS, 0, 0, &[]).repeat(50_000);
    let empty = frame(kind::DATA, 0, 1, &[]).repeat(50_000);
    let empty = [begin_call(1, SUBMIT), empty].concat();
    for flood in [resets, pings, settings, empty] {
        let bytes = [begin_connection(), flood].concat();
        // Who floods does not read the answers either.
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(TcpStream::connect(scene.server.address()).await.unwrap());
        }
        let floods = join_all(streams.iter_mut().map(|stream| stream.write_all(&bytes)));
        // The server may stop reading them, or hang up.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), floods).await;
        scene.works().await;
    }
    scene.grew_at_most(64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_and_calls_that_never_finish_are_bounded() {
    let mut scene = Scene::start(Options::new()).await;
    // Some say nothing at all, some stop in the middle of the first word.
    let mut silent = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(scene.server.address()).await.unwrap();
        stream.write_all(&PREFACE[..n % 24]).await.unwrap();
        silent.push(stream);
    }
    // Others open calls whose message never comes to its end.
    let mut half_open = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(scene.server.address()).await.unwrap();
        stream.write_all(&begin_connection()).await.unwrap();
        for n in 0..400 {
            let begin = begin_call(2 * n + 1, SUBMIT);
            let some = frame(kind::DATA, 0, 2 * n + 1, b"\0\0\x0f\xff\xff and so on");
            stream.write_all(&[begin, some].concat()).await.unwrap();
        }
        half_open.push(stream);
    }
    scene.works().await;
    scene.grew_at_most(96);
    // The server hangs up on who does not say what it speaks.
    let ends = silent.iter_mut().map(async |stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    in_time("the server to hang up", join_all(ends)).await;
    drop(half_open);
    scene.works().await;
}
