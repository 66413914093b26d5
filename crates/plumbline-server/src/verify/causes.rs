//! Has the causes of what is suspicious looked for.

use plumbline_divergence::Diagnosis;

use super::assessed::Assessed;
use super::compute::compute;
use crate::diagnosis::{Case, CaseFloor, NotDiagnosed, Room};
use crate::problem::Problem;
use crate::state::{AppState, Resident};

/// Causes, at once if the request asks for them, else some time.
///
/// # Errors
/// 500 if copying what a diagnosis needs panicked.
pub(super) async fn diagnosed(
    state: &AppState,
    resident: &Resident,
    assessed: Assessed,
    heavy: bool,
) -> Result<(Assessed, Option<Result<Diagnosis, NotDiagnosed>>), Problem> {
    if !assessed.is_suspicious() {
        return Ok((assessed, None));
    }
    let asked = assessed.verification().include_diagnosis;
    // Before anything is copied: most of it would be in vain while everything is suspicious.
    match resident.diagnoses.room(asked) {
        Room::Some => {}
        Room::Full => return Ok((assessed, asked.then_some(Err(NotDiagnosed::Full)))),
        Room::Off => return Ok((assessed, None)),
    }
    let floors = state.floors.clone();
    let (assessed, case) = compute(heavy, move || {
        let floor = |version: &str| match floors.of(version) {
            Some(measured) => CaseFloor::Measured(measured),
            None => CaseFloor::Published,
        };
        let case = assessed.case(floor);
        let case = if asked { case } else { case.map(Case::trimmed_to_be_offered) };
        (assessed, case)
    })
    .await?;
    let Some(case) = case else { return Ok((assessed, None)) };
    if asked {
        return Ok((assessed, Some(resident.diagnoses.ask(case).await)));
    }
    resident.diagnoses.offer(case);
    Ok((assessed, None))
}
