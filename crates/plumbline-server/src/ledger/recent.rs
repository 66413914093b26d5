//! What was answered and counted without being stored: all of it where there is no data dir, else what came while the store was in
//! trouble. In bounded memory: the oldest is forgotten.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use plumbline_store::Digest;

use super::identity::Identity;

/// Bytes of answers,
const MAX_BYTES: usize = 32 << 20;
/// answers,
const MAX_ANSWERS: usize = 1 << 14;
/// and sequences that are remembered.
const MAX_SEQUENCES: usize = 1 << 18;

/// What one of these requests is known for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// Nothing.
    No,
    /// Its answer.
    Answer(Arc<[u8]>),
    /// Its key came with other content.
    KeyReused,
}

#[derive(Debug, Default)]
pub(crate) struct Recent {
    answers: HashMap<Digest, (Arc<[u8]>, Option<String>)>,
    /// In the order of arrival.
    order: VecDeque<Digest>,
    keys: HashMap<String, Digest>,
    bytes: usize,
    counted: HashSet<Digest>,
    /// In the order of arrival.
    counted_order: VecDeque<Digest>,
}

impl Recent {
    /// What is known of a request.
    pub(crate) fn look_up(&self, identity: &Identity) -> Remembered {
        let by_key = identity.key.as_ref().and_then(|key| self.keys.get(key));
        if by_key.is_some_and(|digest| *digest != identity.digest) {
            return Remembered::KeyReused;
        }
        self.answers.get(&identity.digest).map_or(Remembered::No, |(json, _)| Remembered::Answer(Arc::clone(json)))
    }

    /// Remembers an answer.
    pub(crate) fn remember(&mut self, identity: &Identity, json: &[u8]) {
        if json.len() > MAX_BYTES || self.answers.contains_key(&identity.digest) {
            return;
        }
        self.bytes += json.len();
        self.answers.insert(identity.digest, (json.into(), identity.key.clone()));
        self.order.push_back(identity.digest);
        if let Some(key) = &identity.key {
            self.keys.insert(key.clone(), identity.digest);
        }
        while self.bytes > MAX_BYTES || self.order.len() > MAX_ANSWERS {
            let Some(oldest) = self.order.pop_front() else { break };
            let Some((json, key)) = self.answers.remove(&oldest) else { continue };
            self.bytes -= json.len();
            if let Some(key) = key {
                self.keys.remove(&key);
            }
        }
    }

    /// Whether a sequence was counted.
    pub(crate) fn has_counted(&self, sequence: &Digest) -> bool {
        self.counted.contains(sequence)
    }

    /// Remembers a sequence as counted.
    pub(crate) fn count(&mut self, sequence: Digest) {
        if !self.counted.insert(sequence) {
            return;
        }
        self.counted_order.push_back(sequence);
        if self.counted_order.len() > MAX_SEQUENCES
            && let Some(oldest) = self.counted_order.pop_front()
        {
            self.counted.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u64, key: Option<&str>) -> Identity {
        let digest = Digest::of([number.to_le_bytes().as_slice()]);
        Identity { digest, sequences: Vec::new(), key: key.map(str::to_owned) }
    }

    #[test]
    fn answers_are_found_by_content_and_keys_are_bound_to_it() {
        let mut recent = Recent::default();
        assert_eq!(recent.look_up(&identity(1, Some("k"))), Remembered::No);
        recent.remember(&identity(1, Some("k")), b"one");
        for key in [None, Some("k"), Some("other")] {
            assert_eq!(recent.look_up(&identity(1, key)), Remembered::Answer(b"one".as_slice().into()));
        }
        assert_eq!(recent.look_up(&identity(2, Some("k"))), Remembered::KeyReused);
        assert_eq!(recent.look_up(&identity(2, None)), Remembered::No);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        let large = vec![b'x'; MAX_BYTES / 4];
        (0..9).for_each(|number| recent.remember(&identity(number, Some(&number.to_string())), &large));
        assert_eq!((recent.answers.len(), recent.order.len(), recent.keys.len()), (4, 4, 4));
        assert_eq!(recent.look_up(&identity(8, Some("0"))), Remembered::Answer(large.as_slice().into()));
        recent.remember(&identity(10, None), &vec![b'x'; MAX_BYTES + 1]);
        assert_eq!(recent.look_up(&identity(10, None)), Remembered::No);
        for number in 0..MAX_SEQUENCES as u64 + 5 {
            recent.count(Digest::of([number.to_le_bytes().as_slice()]));
        }
        assert_eq!((recent.counted.len(), recent.counted_order.len()), (MAX_SEQUENCES, MAX_SEQUENCES));
        assert!(!recent.has_counted(&Digest::of([0u64.to_le_bytes().as_slice()])));
        assert!(recent.has_counted(&Digest::of([5u64.to_le_bytes().as_slice()])));
    }
}
