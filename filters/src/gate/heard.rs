//! What subscribers are told: asked of the policy in force whenever there is something to tell.

use super::{Gate, Item, Onlooker};
use crate::authorize::Entry;

impl Gate {
    /// Whether a subscriber may hear of an item now: whether it sees the item, and would be let subscribe
    /// to it.
    pub fn may_hear(&self, onlooker: &Onlooker<'_>, item: &Item<'_>) -> bool {
        if !self.sight(onlooker, item).is_shown() {
            return false;
        }
        let Some(rules) = &self.rules else { return true };
        let mut question = onlooker.question(Some(item));
        question.mcp.method = "resources/subscribe";
        rules.ask(Entry::Decision, &question).decision.allow
    }
}
