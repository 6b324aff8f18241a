//! Ogg (RFC 3533) as far as a file with one Opus stream (RFC 7845) needs it.

use super::ClipProblem;

/// Opus packets of a file, without the two header packets.
pub fn parse(file: &[u8]) -> Result<Vec<Vec<u8>>, ClipProblem> {
    let mut packets = packets(file)?.into_iter();
    let headers = packets.next().zip(packets.next());
    match headers {
        Some((head, tags)) if head.starts_with(b"OpusHead") && tags.starts_with(b"OpusTags") => Ok(packets.collect()),
        _ => Err(ClipProblem::WrongFormat("Ogg with Opus")),
    }
}

/// A page: 27 bytes of header, the last of them the number of segments; the segments' lengths; the segments. A segment
/// of 255 goes on in the next one, over the page's end if need be.
fn packets(file: &[u8]) -> Result<Vec<Vec<u8>>, ClipProblem> {
    let mut packets = Vec::new();
    let mut packet = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let (header, after) = rest.split_first_chunk::<27>().ok_or(ClipProblem::Truncated(at))?;
        if &header[..4] != b"OggS" {
            return Err(ClipProblem::WrongFormat("Ogg"));
        }
        let (lengths, mut body) = after.split_at_checked(usize::from(header[26])).ok_or(ClipProblem::Truncated(at))?;
        for &length in lengths {
            let (segment, after) = body.split_at_checked(usize::from(length)).ok_or(ClipProblem::Truncated(at))?;
            packet.extend_from_slice(segment);
            body = after;
            if length < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        rest = body;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(segments: &[&[u8]]) -> Vec<u8> {
        let mut p = b"OggS".to_vec();
        p.extend([0; 22]);
        p.push(segments.len() as u8);
        p.extend(segments.iter().map(|s| s.len() as u8));
        p.extend(segments.concat());
        p
    }

    #[test]
    fn packets_may_span_segments_and_pages() {
        let file =
            [page(&[b"OpusHead\x01"]), page(&[b"OpusTags"]), page(&[b"a", &[7; 255], b"bc", &[8; 255]]), page(&[b"d"])]
                .concat();
        let expected = [vec![b'a'], [&[7; 255][..], b"bc"].concat(), [&[8; 255][..], b"d"].concat()];
        assert_eq!(parse(&file).unwrap(), expected);
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(parse(b""), Err(ClipProblem::WrongFormat("Ogg with Opus")));
        assert_eq!(parse(&[0; 40]), Err(ClipProblem::WrongFormat("Ogg")));
        let whole = page(&[b"OpusHead"]);
        for cut in 1..whole.len() {
            assert_eq!(parse(&whole[..cut]), Err(ClipProblem::Truncated(0)), "{cut}");
        }
    }
}
