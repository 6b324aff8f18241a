//! The H.264 byte stream (H.264 Annex B): NAL units behind start codes, grouped into access units.

use super::ClipProblem;

pub const NAL_SLICE: u8 = 1;
pub const NAL_IDR: u8 = 5;
pub const NAL_SPS: u8 = 7;
pub const NAL_PPS: u8 = 8;

/// One frame: parameter sets, if any, then slices.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct AccessUnit<'a> {
    pub nals: Vec<&'a [u8]>,
    pub key: bool,
}

/// Frames of a byte stream that has parameter sets before each key frame and nothing else beside slices.
pub fn parse(file: &[u8]) -> Result<Vec<AccessUnit<'_>>, ClipProblem> {
    let mut units: Vec<AccessUnit> = Vec::new();
    let mut parameter_sets = Vec::new();
    for nal in nal_units(file) {
        match nal.first().map(|b| b & 0x1f) {
            Some(NAL_SPS | NAL_PPS) => parameter_sets.push(nal),
            Some(kind @ (NAL_SLICE | NAL_IDR)) => {
                // first_mb_in_slice, an Exp-Golomb number, is 0 exactly if its first bit is 1.
                if nal.get(1).is_some_and(|b| b & 0x80 != 0) {
                    if kind == NAL_IDR && parameter_sets.len() < 2 {
                        return Err(ClipProblem::NoParameterSets(units.len()));
                    }
                    units.push(AccessUnit { nals: std::mem::take(&mut parameter_sets), key: kind == NAL_IDR });
                }
                match units.last_mut() {
                    Some(unit) => unit.nals.push(nal),
                    None => return Err(ClipProblem::NoKeyFrame),
                }
            }
            Some(other) => return Err(ClipProblem::UnexpectedNal(other)),
            None => {}
        }
    }
    match units.is_empty() {
        true => Err(ClipProblem::WrongFormat("an H.264 byte stream")),
        false => Ok(units),
    }
}

/// Between start codes 00 00 01; zeros before a start code belong to it.
fn nal_units(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(file);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(3).position(|w| w == [0, 0, 1]);
        rest = end.and_then(|end| after_start_code(&bytes[end..]));
        let nal = &bytes[..end.unwrap_or(bytes.len())];
        let zeros = nal.iter().rev().take_while(|&&b| b == 0).count();
        Some(&nal[..nal.len() - zeros])
    })
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(3).position(|w| w == [0, 0, 1]).map(|at| &bytes[at + 3..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_join_their_frame() {
        let file = [
            &[0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3][..],
            &[0, 0, 1, 0x65, 0x88, 4, 0, 0, 0, 1, 0x65, 0x40, 5],
            &[0, 0, 1, 0x41, 0x9a, 6],
        ]
        .concat();
        let units = parse(&file).unwrap();
        assert_eq!(units.len(), 2);
        assert_eq!(units[0].nals, [&[0x67, 1, 2][..], &[0x68, 3], &[0x65, 0x88, 4], &[0x65, 0x40, 5]]);
        assert!(units[0].key);
        assert_eq!(units[1].nals, [&[0x41, 0x9a, 6]]);
        assert!(!units[1].key);
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(parse(b""), Err(ClipProblem::WrongFormat("an H.264 byte stream")));
        assert_eq!(parse(&[0, 0, 1, 6, 5]), Err(ClipProblem::UnexpectedNal(6)));
        assert_eq!(parse(&[0, 0, 1, 0x65, 0x88]), Err(ClipProblem::NoParameterSets(0)));
        assert_eq!(parse(&[0, 0, 1, 0x41, 0x40]), Err(ClipProblem::NoKeyFrame));
    }
}
