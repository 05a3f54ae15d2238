use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair as CertificateKey, SanType};

fn certificate(uris: &[&str], dns: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let mut params = CertificateParams::default();
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
    params.subject_alt_names.extend(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    change(&mut params);
    let key = CertificateKey::generate().unwrap();
    Certificate::read(params.self_signed(&key).unwrap().der()).unwrap()
}

fn rules() -> CertificateRules {
    CertificateRules {
        trust_domains: vec!["example.org".into()],
        dns: vec!["*.agents.internal".into(), "planner.internal".into()],
        ..CertificateRules::default()
    }
}

fn names(uris: &[&str], dns: &[&str]) -> Result<(String, String), Fault> {
    let verified = rules().verify(&certificate(uris, dns, |_| ()))?;
    Ok((verified.principal.tenant.to_string(), verified.principal.subject.to_string()))
}

#[test]
fn a_certificate_has_one_name() {
    let spiffe = "spiffe://example.org/ns/agents/sa/planner";
    let named = |tenant: &str, subject: &str| Ok((tenant.to_owned(), subject.to_owned()));
    let nobody = Err(Fault::Certificate);
    assert_eq!(names(&[spiffe], &[]), named("example.org", spiffe));
    assert_eq!(names(&[spiffe], &["a.agents.internal"]), named("example.org", spiffe));
    assert_eq!(names(&[], &["a.agents.internal"]), named("dns", "a.agents.internal"));
    assert_eq!(names(&[], &["Planner.Internal"]), named("dns", "planner.internal"));
    assert_eq!(names(&[], &["a.agents.internal", "other.internal"]), named("dns", "a.agents.internal"));
    assert_eq!(names(&[], &["a.agents.internal", "b.agents.internal"]), nobody);
    assert_eq!(names(&[], &["a.b.agents.internal"]), nobody);
    assert_eq!(names(&[], &[]), nobody);
    assert_eq!(names(&[], &["*.agents.internal"]), nobody);
    assert_eq!(names(&[], &["*.agents.internal", "a.agents.internal"]), named("dns", "a.agents.internal"));
    let many: Vec<String> = (0..65).map(|n| format!("n{n}.other.internal")).collect();
    let many: Vec<&str> = ["a.agents.internal"].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert_eq!(names(&[], &many[..64]), named("dns", "a.agents.internal"));
    assert_eq!(names(&[], &many[..65]), nobody, "one of the others may be taken as well");
    assert_eq!(names(&[spiffe, "spiffe://example.org/other"], &[]), nobody);
    assert_eq!(names(&[spiffe, "https://example.org/"], &["a.agents.internal"]), nobody);
    assert_eq!(names(&["spiffe://evil.org/x"], &["a.agents.internal"]), nobody);
    for bad in [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org//x",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a?b",
        "spiffe://example.org:80/a",
        "spiffe://Example.org/a",
        "SPIFFE://example.org/a",
    ] {
        assert_eq!(names(&[bad], &["a.agents.internal"]), nobody, "{bad}");
    }
}

#[test]
fn an_authority_names_nobody() {
    let spiffe = "spiffe://example.org/x";
    let authority = certificate(&[spiffe], &[], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(rules().verify(&authority).map(drop), Err(Fault::Certificate));
}

#[test]
fn what_a_certificate_proves_ends_with_it_and_goes_with_no_other() {
    let certificate = certificate(&["spiffe://example.org/x"], &[], |_| ());
    let verified = rules().verify(&certificate).unwrap();
    assert_eq!(verified.principal.not_after, Some(Duration::from_secs(2_524_608_000)));
    assert_eq!(verified.bound_to, Some(certificate.fingerprint));
    assert_eq!(verified.principal.agent.as_deref(), Some("spiffe://example.org/x"));
    assert_eq!(verified.principal.auth, AuthMethod::Mtls);
}

#[test]
fn rubbish_is_no_certificate() {
    assert_eq!(Certificate::read(b"rubbish").map(drop), Err(Fault::Certificate));
    assert_eq!(rules().verify(&Certificate::unreadable(b"rubbish")).map(drop), Err(Fault::Certificate));
}
