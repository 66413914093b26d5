//! Records whose arrays have a value for every token, prompt and completion alike.

use plumbline_core::TokenId;

use super::error::Fault;

/// Arrays that are as long as each other, cut into prompt and completion.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) prompt_token_ids: Vec<TokenId>,
    pub(super) completion_token_ids: Vec<TokenId>,
    /// Of the completion.
    pub(super) loss_mask: Vec<bool>,
    /// Where the completion begins.
    pub(super) start: usize,
}

impl Cut {
    /// The completion begins with the first token of the mask; what follows and is not in the mask (tool outputs, later
    /// turns of the user) is part of it and masked. `None` if no token is in the mask.
    pub(super) fn at_mask(mut token_ids: Vec<TokenId>, mask: &[bool]) -> Result<Option<Self>, Fault> {
        same_length("loss_mask", mask.len(), token_ids.len())?;
        let Some(start) = mask.iter().position(|kept| *kept) else { return Ok(None) };
        let completion_token_ids = token_ids.split_off(start);
        let loss_mask = mask[start..].to_vec();
        Ok(Some(Self { prompt_token_ids: token_ids, completion_token_ids, loss_mask, start }))
    }

    /// The completion's part of a column.
    pub(super) fn completion<T: Clone>(&self, field: &str, column: &[T]) -> Result<Vec<T>, Fault> {
        same_length(field, column.len(), self.start + self.completion_token_ids.len())?;
        Ok(column[self.start..].to_vec())
    }
}

pub(super) fn same_length(field: &str, actual: usize, expected: usize) -> Result<(), Fault> {
    if actual == expected {
        return Ok(());
    }
    Err(Fault::of(field, format!("has {actual} values for {expected} tokens")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_says_where_the_completion_begins() {
        let cut = Cut::at_mask(vec![1, 2, 3, 4, 5], &[false, false, true, false, true]).unwrap().unwrap();
        assert_eq!(
            (cut.prompt_token_ids.as_slice(), cut.completion_token_ids.as_slice()),
            (&[1, 2][..], &[3, 4, 5][..])
        );
        assert_eq!(cut.loss_mask, [true, false, true]);
        assert_eq!(cut.completion("x", &[0.0, 0.1, 0.2, 0.3, 0.4]).unwrap(), [0.2, 0.3, 0.4]);
        assert_eq!(cut.completion("x", &[0.0]).unwrap_err().reason, "has 1 values for 5 tokens");
        assert_eq!(Cut::at_mask(vec![1, 2], &[false, false]).unwrap(), None);
        assert_eq!(Cut::at_mask(vec![1, 2], &[true]).unwrap_err().field.as_deref(), Some("loss_mask"));
    }
}
