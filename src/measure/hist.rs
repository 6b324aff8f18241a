//! A histogram of durations that merges and travels.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};

/// Highest value a histogram tells apart, in µs; what is larger counts as this.
const HIGHEST_US: u64 = 120_000_000;

/// HDR histogram of microseconds, 1 µs to 120 s, two significant digits (values are right to 1 %). Allocates its
/// counts at the first record; recording after that allocates nothing. Travels as base64 of the HDR V2 encoding,
/// an empty one as "".
#[derive(Clone, Default, Debug)]
pub struct Hist(Option<Box<Histogram<u32>>>);

fn blank() -> Box<Histogram<u32>> {
    #[expect(clippy::expect_used, reason = "constant bounds, checked by every test that records")]
    Box::new(Histogram::new_with_bounds(1, HIGHEST_US, 2).expect("constant bounds"))
}

impl Hist {
    pub fn new() -> Hist {
        Hist(None)
    }

    /// With its counts allocated, for paths that must not allocate later.
    pub fn allocated() -> Hist {
        Hist(Some(blank()))
    }

    /// Records one value in µs.
    pub fn record_us(&mut self, us: u64) {
        self.0.get_or_insert_with(blank).saturating_record(us);
    }

    pub fn merge(&mut self, other: &Hist) {
        let Some(o) = &other.0 else { return };
        let h = self.0.get_or_insert_with(blank);
        // Same bounds, so adding can't fail.
        let added = h.add(&**o);
        debug_assert!(added.is_ok());
    }

    /// Forgets the values and keeps the memory.
    pub fn clear(&mut self) {
        if let Some(h) = &mut self.0 {
            h.reset();
        }
    }

    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |h| h.len())
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Value in µs at a quantile (0..=1); `None` without data.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        self.0.as_ref().filter(|h| !h.is_empty()).map(|h| h.value_at_quantile(q))
    }

    /// The same in ms.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.quantile_us(q).map(|us| us as f64 / 1000.0)
    }

    pub fn max_ms(&self) -> Option<f64> {
        self.0.as_ref().filter(|h| !h.is_empty()).map(|h| h.max() as f64 / 1000.0)
    }

    pub fn mean_ms(&self) -> Option<f64> {
        self.0.as_ref().filter(|h| !h.is_empty()).map(|h| h.mean() / 1000.0)
    }
}

impl PartialEq for Hist {
    fn eq(&self, other: &Hist) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => a == b,
            (None, None) => true,
            (Some(a), None) | (None, Some(a)) => a.is_empty(),
        }
    }
}

impl Serialize for Hist {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Some(h) = self.0.as_ref().filter(|h| !h.is_empty()) else {
            return s.serialize_str("");
        };
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(h, &mut bytes).map_err(serde::ser::Error::custom)?;
        s.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Hist {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Hist, D::Error> {
        use serde::de::Error;
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        if text.is_empty() {
            return Ok(Hist::new());
        }
        let bytes = STANDARD_NO_PAD.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let read: Histogram<u32> =
            Deserializer::new().deserialize(&mut &bytes[..]).map_err(|e| D::Error::custom(format!("{e:?}")))?;
        let mut h = blank();
        h.add(&read).map_err(|e| D::Error::custom(format!("{e:?}")))?;
        Ok(Hist(Some(h)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_and_merges() {
        let (mut a, mut b) = (Hist::new(), Hist::new());
        for i in 1..=1000 {
            a.record_us(i * 100);
            b.record_us(200_000_000);
        }
        let text = serde_json::to_string(&a).unwrap();
        let mut back: Hist = serde_json::from_str(&text).unwrap();
        assert_eq!(back, a);
        back.merge(&b);
        assert_eq!(back.count(), 2000);
        let p25 = back.quantile_ms(0.25).unwrap();
        assert!((49.0..51.0).contains(&p25), "{p25}");
        assert!(back.max_ms().unwrap() >= 120_000.0);
    }

    #[test]
    fn rejects_garbage() {
        for text in ["\"AAAA\"", "\"%%\"", "\"HISTFAAAAA\"", "3"] {
            assert!(serde_json::from_str::<Hist>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Hist>("\"\"").unwrap().is_empty());
    }
}
