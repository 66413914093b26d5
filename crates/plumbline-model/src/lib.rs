//! The reference model: a packed, teacher-forced decoder on candle.
//!
//! - `spec`: a decoder described by data, read from a Hugging Face `config.json`;
//! - `weights`: checkpoints, and the check that a model uses all of one;
//! - `ops`: the operations that the forward is written over, the seam for devices;
//! - `profile`: where their time goes;
//! - `processed`: numbers that need whole rows of logits;
//! - `decoder`: the one forward; `rope`: its position tables;
//! - `text`: tokens' text and the prompts of chats;
//! - `hub`: models of the Hugging Face hub and their cache; `locate`: whether a name is a path or a hub id;
//! - `selfcheck`: the same weights in another implementation, as a second opinion;
//! - `variants`: scores of models that differ from the resident one in one thing;
//! - `load` and `reference`: from a folder to a [`plumbline_core::ReferenceModel`].
//!
//! The only crate that knows candle.

mod compute;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod error;
#[cfg(feature = "hub")]
mod hub;
mod load;
mod locate;
mod ops;
mod processed;
mod profile;
mod reference;
mod rope;
mod selfcheck;
mod spec;
mod text;
mod variants;
mod weights;

pub use error::LoadError;
#[cfg(feature = "hub")]
pub use hub::{DEFAULT_REVISION, HubError, HubModel, HubRequest, HubSettings, HubSnapshot, HubToken};
pub use load::{EmbeddedModel, LoadOptions, ModelSource, TokenizerError};
pub use profile::{Profile, Stage};
pub use reference::CandleReference;
pub use selfcheck::{
    Comparison, Extent, FamilySupport, HALF_PRECISION_TOLERANCE_NATS, Outcome, SelfCheck, TOLERANCE_NATS, Worst,
    families,
};
pub use spec::{
    Activation, AttentionProjection, AttentionSpec, ConfigError, DecoderSpec, ExpertsSpec, GatedSpec, HeadSpec,
    LatentSpec, LayerSpec, MlpSpec, NormKind, NormSpec, ProjectionSpec, QkNormScope, QkNormSpec, RopeScaling, RopeSpec,
    RouterGroups, RouterScoring, RouterSpec, WeightLayout, YarnSpec,
};
pub use text::{Chat, ChatTemplate, ChatValue, CivilTime, Piece, TextError, Tokenizer};
pub use weights::WeightsError;
