//! Which versions of the weights are in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use plumbline_core::ReferenceInfo;

/// Names of versions that are gone which are remembered.
const REMEMBERED: usize = 1024;

/// The versions of the weights that are in memory, at one moment. Where there are several model threads, each has a copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residents {
    /// Oldest first; the last one is current.
    kept: Vec<Arc<ReferenceInfo>>,
    /// Taken out of `kept`, still in memory: work that was admitted for them may wait.
    leaving: Vec<Arc<ReferenceInfo>>,
    /// Versions that were kept once, oldest first.
    past: VecDeque<String>,
}

impl Residents {
    /// What new work is scored with unless it asks for another version; `None` until the first is loaded.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<ReferenceInfo>> {
        self.kept.last()
    }

    /// The versions that work can ask for, oldest first.
    #[must_use]
    pub fn kept(&self) -> &[Arc<ReferenceInfo>] {
        &self.kept
    }

    /// A version that work can ask for.
    #[must_use]
    pub fn get(&self, policy_version: &str) -> Option<&Arc<ReferenceInfo>> {
        self.kept.iter().find(|info| info.policy_version == policy_version)
    }

    /// Whether a version was kept once and no longer is; the last 1024 such versions are remembered.
    #[must_use]
    pub fn is_past(&self, policy_version: &str) -> bool {
        self.get(policy_version).is_none() && self.past.iter().any(|past| past == policy_version)
    }

    /// Memory of all weights, in bytes: of every copy on every device, and of versions that only finish admitted work, which
    /// count whole until their last copy is dropped.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.kept.iter().chain(&self.leaving).map(|info| info.weight_bytes).sum()
    }

    pub(crate) fn leaving(&self) -> &[Arc<ReferenceInfo>] {
        &self.leaving
    }

    /// Makes `info` the current version. A version of the same name leaves, and the oldest ones beyond `keep` do.
    pub(crate) fn add(&mut self, info: Arc<ReferenceInfo>, keep: usize) {
        if let Some(index) = self.kept.iter().position(|old| old.policy_version == info.policy_version) {
            self.retire(index);
        }
        self.kept.push(info);
        while self.kept.len() > keep.max(1) {
            self.retire(0);
        }
    }

    /// Takes the oldest version out, but never the current one; says whether there was one.
    pub(crate) fn retire_oldest(&mut self) -> bool {
        let more_than_current = self.kept.len() > 1;
        if more_than_current {
            self.retire(0);
        }
        more_than_current
    }

    /// Takes one version out, if work can ask for it.
    pub(crate) fn retire_this(&mut self, info: &Arc<ReferenceInfo>) {
        if let Some(index) = self.kept.iter().position(|kept| Arc::ptr_eq(kept, info)) {
            self.retire(index);
        }
    }

    /// All copies of a leaving version have been dropped.
    pub(crate) fn left(&mut self, info: &Arc<ReferenceInfo>) {
        self.leaving.retain(|leaving| !Arc::ptr_eq(leaving, info));
    }

    fn retire(&mut self, index: usize) {
        let info = self.kept.remove(index);
        self.past.retain(|past| *past != info.policy_version);
        self.past.push_back(info.policy_version.clone());
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        self.leaving.push(info);
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::ModelLimits;

    use super::*;

    fn info(policy_version: &str) -> Arc<ReferenceInfo> {
        Arc::new(ReferenceInfo {
            model: "m".into(),
            family: "f".into(),
            policy_version: policy_version.into(),
            dtype: "f32".into(),
            head_dtype: "f32".into(),
            device: "cpu".into(),
            parameters: 1,
            weight_bytes: 4,
            eos_token_ids: Vec::new(),
            limits: ModelLimits { vocab_size: 1, max_positions: 1 },
        })
    }

    fn names(infos: &[Arc<ReferenceInfo>]) -> Vec<&str> {
        infos.iter().map(|info| info.policy_version.as_str()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_the_rest_leaves() {
        let mut residents = Residents::default();
        assert!(residents.current().is_none() && !residents.retire_oldest());
        for version in ["1", "2", "3"] {
            residents.add(info(version), 2);
        }
        assert_eq!((names(residents.kept()), names(residents.leaving())), (vec!["2", "3"], vec!["1"]));
        assert_eq!(residents.current().unwrap().policy_version, "3");
        assert!(residents.is_past("1") && !residents.is_past("2") && !residents.is_past("9"));
        assert_eq!(residents.weight_bytes(), 12, "what leaves still takes memory");
        let first = Arc::clone(&residents.leaving()[0]);
        residents.left(&first);
        assert_eq!(residents.weight_bytes(), 8);
        assert!(residents.retire_oldest() && !residents.retire_oldest(), "the current one stays");
        assert_eq!(names(residents.kept()), ["3"]);
    }

    #[test]
    fn a_version_loaded_again_replaces_itself() {
        let mut residents = Residents::default();
        residents.add(info("1"), 3);
        residents.add(info("2"), 3);
        let again = info("1");
        residents.add(Arc::clone(&again), 3);
        assert_eq!(names(residents.kept()), ["2", "1"]);
        assert!(Arc::ptr_eq(residents.get("1").unwrap(), &again));
        assert!(!residents.is_past("1"), "it can be asked for");
    }

    #[test]
    fn memory_of_past_versions_is_bounded() {
        let mut residents = Residents::default();
        for version in 0..REMEMBERED + 10 {
            residents.add(info(&version.to_string()), 1);
        }
        assert_eq!(residents.past.len(), REMEMBERED);
        assert!(!residents.is_past("0") && residents.is_past("1000"));
    }
}
