//! What a job streams.

use coretex::proto::ReadJobOutputResponse;

use super::{Paint, clean, documents};

documents! {
    ReadJobOutputResponse => line;
}

/// A log line.
fn line(piece: &ReadJobOutputResponse, _paint: Paint) -> String {
    if piece.gap.is_some() {
        return String::new();
    }
    format!("{}\n", clean(&String::from_utf8_lossy(&piece.chunk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_move_no_cursor() {
        let piece = |chunk: &'static [u8]| ReadJobOutputResponse {
            chunk: chunk.into(),
            ..ReadJobOutputResponse::default()
        };
        let paint = Paint::new(true);
        assert_eq!(line(&piece(b"step 1"), paint), "step 1\n");
        assert_eq!(line(&piece(b"\x1b[2J\xff"), paint), "\\u{1b}[2J\u{fffd}\n");
        assert_eq!(line(&piece(b""), paint), "\n");
    }
}
