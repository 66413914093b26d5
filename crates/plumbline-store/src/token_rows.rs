//! The tokens of a sequence, without loss.
//!
//! Column by column, each with its bytes apart (all first bytes, then all second ones, ...): most values come from f32 and are
//! near each other, so that whole planes of bytes are equal, and zstd takes them away.

use plumbline_core::SkipReason;
use plumbline_divergence::TokenComparison;
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};

use crate::{Packed, StoreError};

/// Raised when the layout changes.
const LAYOUT: u8 = 1;

/// Tokens as they are stored. Packing and opening are CPU-bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRows(Packed);

impl TokenRows {
    /// Packs.
    #[must_use]
    pub fn new(tokens: &[TokenComparison]) -> Self {
        let mut bytes = vec![LAYOUT];
        bytes.extend((tokens.len() as u64).to_le_bytes());
        put(&mut bytes, tokens, |token| token.token_id.to_le_bytes());
        for value in REALS {
            put(&mut bytes, tokens, |token| [u8::from(value.get(token).is_some())]);
            put(&mut bytes, tokens, |token| value.get(token).unwrap_or_default().to_bits().to_le_bytes());
        }
        put(&mut bytes, tokens, |token| [u8::from(token.rank.is_some())]);
        put(&mut bytes, tokens, |token| token.rank.unwrap_or_default().to_le_bytes());
        put(&mut bytes, tokens, |token| [token.skipped.map_or(0, code)]);
        Self(Packed::new(&bytes))
    }

    /// The tokens, bit by bit as they were.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they were changed since they were stored.
    pub fn open(&self) -> Result<Vec<TokenComparison>, StoreError> {
        let bytes = self.0.open()?;
        let mut rest = Rest(&bytes);
        let [layout] = rest.array()?;
        if layout != LAYOUT {
            return Err(damaged("unknown layout"));
        }
        let count = usize::try_from(u64::from_le_bytes(rest.array()?)).map_err(|_| damaged("too many"))?;
        let mut tokens: Vec<TokenComparison> = rest
            .plane(count)?
            .map(|id| TokenComparison {
                token_id: u32::from_le_bytes(id),
                engine: None,
                reference: None,
                entropy: None,
                rank: None,
                eos_probability: None,
                skipped: None,
            })
            .collect();
        for value in REALS {
            let there = rest.plane::<1>(count)?;
            let bits = rest.plane(count)?;
            for (token, ([there], bits)) in tokens.iter_mut().zip(there.zip(bits)) {
                *value.slot(token) = (there != 0).then(|| f64::from_bits(u64::from_le_bytes(bits)));
            }
        }
        let there = rest.plane::<1>(count)?;
        let ranks = rest.plane(count)?;
        for (token, ([there], rank)) in tokens.iter_mut().zip(there.zip(ranks)) {
            token.rank = (there != 0).then(|| u32::from_le_bytes(rank));
        }
        for (token, [skipped]) in tokens.iter_mut().zip(rest.plane(count)?) {
            token.skipped = reason(skipped)?;
        }
        if rest.0.is_empty() { Ok(tokens) } else { Err(damaged("more bytes than tokens")) }
    }

    /// Bytes that they take on the disk.
    #[must_use]
    pub fn packed_len(&self) -> usize {
        self.0.packed_len()
    }
}

/// The columns of optional real numbers, in their order.
#[derive(Clone, Copy)]
enum Real {
    Engine,
    Reference,
    Entropy,
    EosProbability,
}

const REALS: [Real; 4] = [Real::Engine, Real::Reference, Real::Entropy, Real::EosProbability];

impl Real {
    fn get(self, token: &TokenComparison) -> Option<f64> {
        match self {
            Self::Engine => token.engine,
            Self::Reference => token.reference,
            Self::Entropy => token.entropy,
            Self::EosProbability => token.eos_probability,
        }
    }

    fn slot(self, token: &mut TokenComparison) -> &mut Option<f64> {
        match self {
            Self::Engine => &mut token.engine,
            Self::Reference => &mut token.reference,
            Self::Entropy => &mut token.entropy,
            Self::EosProbability => &mut token.eos_probability,
        }
    }
}

/// Appends a column of fixed width, its bytes apart.
fn put<const N: usize>(bytes: &mut Vec<u8>, tokens: &[TokenComparison], value: impl Fn(&TokenComparison) -> [u8; N]) {
    let start = bytes.len();
    bytes.resize(start + N * tokens.len(), 0);
    let column = &mut bytes[start..];
    for (place, token) in tokens.iter().enumerate() {
        for (plane, byte) in value(token).into_iter().enumerate() {
            column[plane * tokens.len() + place] = byte;
        }
    }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| damaged("too few bytes"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.take(N)?.try_into().map_err(|_| damaged("too few bytes"))
    }

    /// A column as [`put`] wrote it.
    fn plane<const N: usize>(
        &mut self,
        count: usize,
    ) -> Result<impl ExactSizeIterator<Item = [u8; N]> + use<'a, N>, StoreError> {
        let column = self.take(count.checked_mul(N).ok_or_else(|| damaged("too many"))?)?;
        Ok((0..count).map(move |place| std::array::from_fn(|plane| column[plane * count + place])))
    }
}

fn damaged(reason: &str) -> StoreError {
    StoreError::Damaged { what: "tokens", reason: reason.to_owned() }
}

/// On the disk for ever, whatever the order of the enum.
fn code(reason: SkipReason) -> u8 {
    match reason {
        SkipReason::Masked => 1,
        SkipReason::NoContext => 2,
        SkipReason::Missing => 3,
        SkipReason::NonFinite => 4,
        SkipReason::Sentinel => 5,
        SkipReason::Positive => 6,
        SkipReason::SupportMismatch => 7,
    }
}

fn reason(stored: u8) -> Result<Option<SkipReason>, StoreError> {
    if stored == 0 {
        return Ok(None);
    }
    let found = SkipReason::ALL.into_iter().find(|reason| code(*reason) == stored);
    found.map(Some).ok_or_else(|| damaged("unknown reason"))
}

impl ToSql for TokenRows {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for TokenRows {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Packed::column_result(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn real() -> impl Strategy<Value = Option<f64>> {
        proptest::option::of(any::<u64>().prop_map(f64::from_bits))
    }

    fn token() -> impl Strategy<Value = TokenComparison> {
        let skipped = proptest::option::of(proptest::sample::select(SkipReason::ALL.to_vec()));
        (any::<u32>(), real(), real(), real(), any::<Option<u32>>(), real(), skipped).prop_map(
            |(token_id, engine, reference, entropy, rank, eos_probability, skipped)| TokenComparison {
                token_id,
                engine,
                reference,
                entropy,
                rank,
                eos_probability,
                skipped,
            },
        )
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(tokens in proptest::collection::vec(token(), 0..40)) {
            let read = TokenRows::new(&tokens).open().unwrap();
            // NaN differs from itself: the bits are what counts.
            prop_assert_eq!(format!("{read:?}"), format!("{tokens:?}"));
            let bits = |tokens: &[TokenComparison]| -> Vec<_> {
                tokens.iter().flat_map(|token| REALS.map(|real| real.get(token).map(f64::to_bits))).collect()
            };
            prop_assert_eq!(bits(&read), bits(&tokens));
        }

        #[test]
        fn damage_is_no_panic(tokens in proptest::collection::vec(token(), 0..5), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = TokenRows::new(&tokens).0.open().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = TokenRows(Packed::new(&bytes)).open();
            bytes.truncate(at);
            prop_assert!(TokenRows(Packed::new(&bytes)).open().is_err());
        }
    }

    #[test]
    fn values_from_f32_take_about_half() {
        let token = |place: u32| TokenComparison {
            token_id: place * 7919 % 150_000,
            engine: Some(f64::from(-(place as f32) / 333.0)),
            reference: Some(f64::from(-(place as f32) / 333.1)),
            entropy: Some(f64::from(place as f32 / 77.0)),
            rank: Some(place % 3),
            eos_probability: None,
            skipped: None,
        };
        let tokens: Vec<_> = (0..1000).map(token).collect();
        assert!(TokenRows::new(&tokens).packed_len() < 1000 * 18);
    }
}
