//! What a job sees of a model thread.

use std::sync::Arc;

use plumbline_core::{BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel, ScoringSequence, Variant};

use crate::Residents;

/// The resident versions of the model, at a job's disposal while it runs.
pub trait Models {
    /// The versions that work can ask for, oldest first; the last one is the current one.
    fn versions(&self) -> &[Arc<ReferenceInfo>];

    /// The model of one of these versions.
    fn model(&mut self, policy_version: &str) -> Option<AsideModel<'_>>;

    /// The version that new work is scored with.
    fn current(&self) -> Option<&Arc<ReferenceInfo>> {
        self.versions().last()
    }
}

/// A model as jobs may use it: what makes room on the device for scoring is not theirs to change.
#[expect(missing_debug_implementations, reason = "a borrowed trait object without anything to show")]
pub struct AsideModel<'a>(&'a mut dyn ReferenceModel);

impl<'a> AsideModel<'a> {
    /// Borrows a model.
    #[must_use]
    pub fn new(model: &'a mut dyn ReferenceModel) -> Self {
        Self(model)
    }
}

impl ReferenceModel for AsideModel<'_> {
    fn info(&self) -> &ReferenceInfo {
        self.0.info()
    }

    fn shares_prefixes(&self) -> bool {
        self.0.shares_prefixes()
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.0.supports(variant)
    }

    fn score_variant(&mut self, batch: &PackedBatch, variant: &Variant) -> Result<BatchScores, ModelError> {
        self.0.score_variant(batch, variant)
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        self.0.logits(sequence, places, visit)
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        self.0.score(batch)
    }
}

/// The copies of one model thread, as far as work can ask for them.
pub(crate) struct ResidentModels<'a> {
    residents: Residents,
    copies: &'a mut [(Arc<ReferenceInfo>, Box<dyn ReferenceModel>)],
}

impl<'a> ResidentModels<'a> {
    /// `copies` has one of each version that `residents` keeps, and may have more.
    pub(crate) fn new(residents: Residents, copies: &'a mut [(Arc<ReferenceInfo>, Box<dyn ReferenceModel>)]) -> Self {
        Self { residents, copies }
    }
}

impl Models for ResidentModels<'_> {
    fn versions(&self) -> &[Arc<ReferenceInfo>] {
        self.residents.kept()
    }

    fn model(&mut self, policy_version: &str) -> Option<AsideModel<'_>> {
        // By identity: a version that was loaded again may still be there under the same name.
        let wanted = self.residents.get(policy_version)?;
        let (_, copy) = self.copies.iter_mut().find(|(info, _)| Arc::ptr_eq(info, wanted))?;
        Some(AsideModel::new(copy.as_mut()))
    }
}
