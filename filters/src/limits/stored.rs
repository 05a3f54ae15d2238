//! Writes counts as bytes and reads them back, so that quotas and budgets survive the process.
//!
//! Rates, loops and permits are not among them: they are over before a process has started.

use super::counters::{CallerKind, Counters, KeyCount};
use super::meter::{ClockReading, Meter};

/// The form of the bytes below.
const FORM: &[u8; 8] = b"limits/1";
/// Digest, caller_kind and the two words of a slot.
const SLOT_BYTES: usize = 25;

/// Bytes that are none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

impl Counters {
    /// The counts of quotas and budgets that are not over.
    pub fn to_bytes(&self, now: ClockReading) -> Vec<u8> {
        let mut out = FORM.to_vec();
        out.extend(self.key_check().to_be_bytes());
        self.each_rule(|name, shape, meter, counters| {
            if !is_stored(meter) {
                return;
            }
            put_text(&mut out, name);
            put_text(&mut out, &stored_shape(shape, meter));
            let at = out.len();
            out.extend([0; 8]);
            let mut count = 0_u64;
            counters.each_slot(|key, caller_kind, slot| {
                if !meter.owes_nothing(slot, now) {
                    out.extend(key.to_be_bytes());
                    out.push(u8::from(caller_kind == CallerKind::Unauthenticated));
                    out.extend(slot.first.to_be_bytes());
                    out.extend(slot.second.to_be_bytes());
                    count += 1;
                }
            });
            out[at..at + 8].copy_from_slice(&count.to_be_bytes());
        });
        out
    }

    /// Takes counts back that [`Counters::to_bytes`] of an earlier process gave: those of rules that count the same things, under
    /// the same key of digests.
    ///
    /// # Errors
    /// [`NotOurs`]; what stands before the place that cannot be read is taken.
    pub fn take_back(&self, bytes: &[u8], now: ClockReading) -> Result<(), NotOurs> {
        let mut rest = Rest(bytes);
        if rest.take(FORM.len())? != FORM {
            return Err(NotOurs);
        }
        // Under another key the digests are those of nobody.
        if rest.number()? != self.key_check() {
            return Ok(());
        }
        while !rest.0.is_empty() {
            let (name, shape) = (rest.text()?, rest.text()?);
            let count = usize::try_from(rest.number()?).map_err(|_| NotOurs)?;
            let slots = rest.take(count.checked_mul(SLOT_BYTES).ok_or(NotOurs)?)?;
            self.with_rule(name, |own, meter, counters| {
                if stored_shape(own, meter) == shape {
                    let slots = slots.chunks_exact(SLOT_BYTES).filter_map(slot);
                    let living = slots.filter(|(_, _, slot)| !meter.owes_nothing(*slot, now));
                    living.for_each(|(key, caller_kind, slot)| counters.put(key, caller_kind, slot));
                }
            });
        }
        Ok(())
    }
}

fn is_stored(meter: Meter) -> bool {
    matches!(meter, Meter::Quota { .. } | Meter::Budget { .. })
}

/// What is counted, and in which windows: under another limit it is the same.
fn stored_shape(shape: &str, meter: Meter) -> String {
    match meter {
        Meter::Quota { period, zone, .. } => format!("{shape}, calls a {} of {zone}", period.as_str()),
        Meter::Budget { period, zone, .. } => format!("{shape}, money a {} of {zone}", period.as_str()),
        Meter::Rate(_) | Meter::Loop(_) | Meter::Concurrency { .. } | Meter::Ceiling { .. } => String::new(),
    }
}

fn slot(bytes: &[u8]) -> Option<(u64, CallerKind, KeyCount)> {
    let mut rest = Rest(bytes);
    let key = rest.number().ok()?;
    let caller_kind =
        if rest.take(1).ok()? == [0] { CallerKind::Authenticated } else { CallerKind::Unauthenticated };
    Some((key, caller_kind, KeyCount { first: rest.number().ok()?, second: rest.number().ok()? }))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Bytes that are still to be read.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], NotOurs> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(NotOurs)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, NotOurs> {
        let bytes = self.take(8)?.try_into().map_err(|_| NotOurs)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'b str, NotOurs> {
        let length = usize::try_from(self.number()?).map_err(|_| NotOurs)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| NotOurs)
    }
}
