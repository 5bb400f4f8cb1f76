//! A CiliumCIDRGroup is its prefixes and its labels.

mod document;

use document::{GROUP, faults, group};

#[test]
fn its_prefixes_and_labels_are_read() {
    let group = group("spec: {externalCIDRs: [10.1.2.3/8, \"2001:db8::/32\"]}");
    let prefixes: Vec<String> = group.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(group.labels.get("tier").map(String::as_str), Some("partners"));
}

#[test]
fn an_empty_group_is_a_group() {
    assert!(group("spec: {externalCIDRs: []}").prefixes.is_empty());
}

#[test]
fn every_fault_is_reported_at_its_field() {
    for (spec, fault) in [
        ("", "spec: required, but missing"),
        ("spec: {}", "spec.externalCIDRs: required, but missing"),
        (
            "spec: {externalCIDRs: }",
            "spec.externalCIDRs: must be a list, but is null",
        ),
        (
            "spec: {externalCIDRs: [10.0.0.1]}",
            "spec.externalCIDRs[0]: `10.0.0.1` is not an address with prefix length",
        ),
        (
            "spec: {externalCIDRs: [10.0.0.0/8, 5]}",
            "spec.externalCIDRs[1]: must be a string, but is a number",
        ),
        (
            "spec: {externalCIDRs: [], cidrs: []}",
            "spec.cidrs: unknown field",
        ),
    ] {
        assert_eq!(faults(GROUP, spec), [fault], "{spec}");
    }
}
