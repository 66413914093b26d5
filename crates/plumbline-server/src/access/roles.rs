//! What a key may do.

use std::fmt;

/// One role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends rollouts and takes their results.
    Ingest,
    /// Looks at runs, sequences, reports and metrics.
    Read,
    /// Everything, changing the weights included.
    Admin,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Ingest, Self::Read, Self::Admin];

    /// Its name in files of keys.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles(u8);

impl Roles {
    /// The roles of a key that names none.
    pub(super) const ADMIN: Self = Self::of(Role::Admin);

    const fn of(role: Role) -> Self {
        Self(1 << role as u8)
    }

    /// Reads names between commas; `None` if one is unknown.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split(',').try_fold(Self(0), |roles, name| {
            let role = Role::ALL.into_iter().find(|role| role.as_str() == name)?;
            Some(Self(roles.0 | Self::of(role).0))
        })
    }

    /// Whether a key with these roles may do what any of `needed` allows.
    pub(crate) fn allow(self, needed: &[Role]) -> bool {
        let allowed = needed.iter().fold(Self::ADMIN.0, |all, role| all | Self::of(*role).0);
        self.0 & allowed != 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Role::ALL.into_iter().filter(|role| self.0 & Self::of(*role).0 != 0);
        f.write_str(&held.map(Role::as_str).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_allows_what_one_of_its_roles_allows_and_admin_everything() {
        let both = Roles::parse("read,ingest").unwrap();
        assert!(both.allow(&[Role::Read]) && both.allow(&[Role::Ingest]) && !both.allow(&[Role::Admin]));
        assert!(!both.allow(&[]), "what no role is named for is for admins");
        assert!(Role::ALL.iter().all(|role| Roles::ADMIN.allow(&[*role])) && Roles::ADMIN.allow(&[]));
        assert_eq!(both.to_string(), "ingest,read");
        for bad in ["", "root", "read,", "Read", "read ingest"] {
            assert_eq!(Roles::parse(bad), None, "{bad}");
        }
    }
}
