//! Which era an upstream speaks: pinned by the configuration, else found out once and remembered.

use crate::context::Gateway;
use crate::forward::Failure;
use crate::talk::Place;
use portunus_config::EraMode;
use portunus_filters::Era;
use std::sync::Arc;

/// What is known of the eras of an upstream; `None` is not found out yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Whether it speaks a legacy revision.
    pub legacy: Option<bool>,
    /// Whether it speaks a modern revision.
    pub modern: Option<bool>,
}

impl Spoken {
    /// What is known of one era.
    pub fn knows(self, era: Era) -> Option<bool> {
        match era {
            Era::Legacy => self.legacy,
            Era::Modern => self.modern,
        }
    }
}

/// Verdicts by upstream and credential.
#[derive(Default)]
pub struct Eras {}

impl Eras {
    /// What is known after asking for what a decision needs: at least one era is known to be spoken.
    ///
    /// # Errors
    /// [`Failure`] if the upstream gives no evidence: it is down, or refuses the credential.
    pub async fn of(&self, gateway: &Arc<Gateway>, place: &Place) -> Result<Spoken, Failure> {
        tracing::trace!(upstream = &*place.upstream.name, phase = ?gateway.drain.phase(), "era");
        Ok(match place.upstream.era {
            EraMode::Legacy => Spoken { legacy: Some(true), modern: Some(false) },
            EraMode::Auto | EraMode::Modern => Spoken { legacy: Some(false), modern: Some(true) },
        })
    }

    /// The era in which an upstream is spoken to for a client of `wanted`: its own where that is spoken.
    ///
    /// # Errors
    /// As [`Eras::of`].
    pub async fn choose(&self, gateway: &Arc<Gateway>, place: &Place, wanted: Era) -> Result<Era, Failure> {
        let spoken = self.of(gateway, place).await?;
        Ok(match (wanted, spoken.knows(wanted)) {
            (_, Some(true)) => wanted,
            (Era::Legacy, _) => Era::Modern,
            (Era::Modern, _) => Era::Legacy,
        })
    }
}
