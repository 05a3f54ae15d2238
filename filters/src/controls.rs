//! What a tool's risk asks for: the profiles `balanced` and `strict`.
//!
//! A risk asks for everything that a lower one asks for. What no code enforces cannot be switched
//! on: [`Controls::unenforced`] names it, and a configuration has to leave it out in writing.

use std::time::Duration;

use crate::facts::Risk;

/// How tools are treated that nobody rated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As medium ones.
    Balanced,
    /// As high ones.
    Strict,
}

impl Profile {
    /// Every profile by its name in configurations.
    pub const NAMES: [(&'static str, Profile); 2] =
        [("strict", Profile::Strict), ("balanced", Profile::Balanced)];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Strict => "strict",
            Profile::Balanced => "balanced",
        }
    }
}

/// One thing that a risk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The caller is a verified principal.
    Authentication,
    /// A policy allows the call.
    Policy,
    /// The call is in a log that cannot be changed unseen.
    Audit,
    /// Arguments fit the tool's schema.
    Schema,
    /// Callers are held to a rate.
    RateLimit,
    /// Arguments and results are searched for what must not leave.
    Dlp,
    /// The caller's person has shown a second factor.
    StepUp,
    /// Others have agreed to the call.
    Approval,
    /// Arguments and result are kept for auditors.
    SealedCapture,
    /// The caller says why.
    Justification,
    /// Someone is told at once.
    Alert,
    /// The call is answered only when its record is durable.
    StrictAudit,
}

impl Control {
    /// Every control, its name in configurations, the least risk that asks for it, and whether this
    /// build enforces it.
    const ALL: [(Control, &'static str, Risk, bool); 12] = [
        (Control::Authentication, "authentication", Risk::Low, true),
        (Control::Policy, "policy", Risk::Low, true),
        (Control::Audit, "audit", Risk::Low, false),
        (Control::Schema, "schema", Risk::Medium, false),
        (Control::RateLimit, "rate_limit", Risk::Medium, false),
        (Control::Dlp, "dlp", Risk::Medium, false),
        (Control::StepUp, "step_up", Risk::High, true),
        (Control::Approval, "approval", Risk::High, true),
        (Control::SealedCapture, "sealed_capture", Risk::High, false),
        (Control::Justification, "justification", Risk::Critical, true),
        (Control::Alert, "alert", Risk::Critical, true),
        (Control::StrictAudit, "strict_audit", Risk::Critical, false),
    ];

    /// The names of all controls that a configuration may leave out, and what they stand for.
    ///
    /// [`Control::Authentication`] and [`Control::Policy`] are not among them: without the two there
    /// is nothing to leave out from.
    pub fn optional() -> Vec<(&'static str, Control)> {
        let basic = [Control::Authentication, Control::Policy];
        let named = Control::ALL.into_iter().map(|(control, name, ..)| (name, control));
        named.filter(|(_, control)| !basic.contains(control)).collect()
    }

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        Control::ALL.iter().find(|(control, ..)| *control == self).map_or("", |(_, name, ..)| name)
    }
}

/// The profile in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controls {
    /// How unrated tools are treated.
    pub profile: Profile,
    /// What the configuration leaves out in writing.
    pub without: Vec<Control>,
}

/// What a call has to show beyond what its policy asks for. A policy may ask for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// The caller is a verified principal.
    pub authentication: bool,
    /// A policy allows the call: without one it is refused.
    pub policy: bool,
    /// The caller's person has shown a second factor.
    pub step_up: bool,
    /// How many others have to agree, none of them the caller.
    pub approvals: u8,
    /// For how long an approval holds, at most.
    pub within: Option<Duration>,
    /// The caller says why.
    pub justification: bool,
    /// Someone is told at once.
    pub alert: bool,
}

impl Controls {
    /// What a call of a tool of this risk has to show.
    pub fn demands(&self, risk: Risk) -> Demands {
        let risk = self.rated(risk);
        let asks = |control| self.asks(control, risk);
        let critical = risk == Risk::Critical;
        let approvals = match asks(Control::Approval) {
            true => 1 + u8::from(critical),
            false => 0,
        };
        Demands {
            authentication: asks(Control::Authentication),
            policy: asks(Control::Policy),
            step_up: asks(Control::StepUp),
            approvals,
            within: (critical && approvals > 0).then_some(LONGEST_GRANT),
            justification: asks(Control::Justification),
            alert: asks(Control::Alert),
        }
    }

    /// What some risk asks for, is not left out, and no code of this build enforces.
    pub fn unenforced(&self) -> Vec<&'static str> {
        let missing =
            |(control, _, _, enforced): &&(Control, _, _, bool)| !enforced && !self.without.contains(control);
        Control::ALL.iter().filter(missing).map(|(_, name, ..)| *name).collect()
    }

    fn asks(&self, control: Control, risk: Risk) -> bool {
        let least = Control::ALL.iter().find(|(known, ..)| *known == control).map(|(_, _, least, _)| *least);
        least.is_some_and(|least| risk >= least) && !self.without.contains(&control)
    }

    /// The risk that a tool is treated as.
    fn rated(&self, risk: Risk) -> Risk {
        match (risk, self.profile) {
            (Risk::Unrated, Profile::Balanced) => Risk::Medium,
            (Risk::Unrated, Profile::Strict) => Risk::High,
            (rated, _) => rated,
        }
    }
}

/// A grant for a critical tool holds no longer.
const LONGEST_GRANT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(profile: Profile, without: &[Control]) -> Controls {
        Controls { profile, without: without.to_vec() }
    }

    #[test]
    fn a_risk_asks_for_all_that_a_lower_one_asks_for() {
        let low = Demands { authentication: true, policy: true, ..Demands::default() };
        let high = Demands { step_up: true, approvals: 1, ..low };
        let critical =
            Demands { approvals: 2, within: Some(LONGEST_GRANT), justification: true, alert: true, ..high };
        let table = [
            (Profile::Balanced, Risk::Unrated, low),
            (Profile::Strict, Risk::Unrated, high),
            (Profile::Strict, Risk::Low, low),
            (Profile::Strict, Risk::Medium, low),
            (Profile::Balanced, Risk::High, high),
            (Profile::Balanced, Risk::Critical, critical),
        ];
        for (profile, risk, expected) in table {
            assert_eq!(controls(profile, &[]).demands(risk), expected, "{profile:?} {risk:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_not_asked_for() {
        let without = [Control::Approval, Control::StepUp, Control::Justification];
        let demands = controls(Profile::Strict, &without).demands(Risk::Critical);
        assert_eq!((demands.approvals, demands.within), (0, None));
        assert!(!demands.step_up && !demands.justification && demands.alert && demands.policy);
    }

    #[test]
    fn what_no_code_enforces_is_named_until_it_is_left_out() {
        let missing = controls(Profile::Strict, &[]).unenforced();
        assert_eq!(missing, ["audit", "schema", "rate_limit", "dlp", "sealed_capture", "strict_audit"]);
        let named =
            |name: &&str| Control::optional().iter().find(|(known, _)| known == name).map(|(_, c)| *c);
        let without: Vec<Control> = missing.iter().filter_map(named).collect();
        assert_eq!(controls(Profile::Strict, &without).unenforced(), [""; 0]);
        assert!(Control::optional().iter().all(|(name, control)| control.as_str() == *name));
    }
}
