use super::*;

fn faults(text: &str) -> Vec<(u32, String, String)> {
    parse(text, "default")
        .into_iter()
        .flat_map(|document| match document {
            Document::Invalid { faults, .. } => faults,
            Document::Object { .. } => Vec::new(),
        })
        .map(|fault| (fault.line, fault.field, fault.message))
        .collect()
}

#[test]
fn a_yaml_error_has_the_line_of_the_file_and_spares_the_other_documents() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: db}\n---\napiVersion: v1\nkind: [\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: dummy}\n";
    let documents = parse(text, "default");
    assert_eq!(documents.len(), 3);
    assert!(matches!(&documents[0], Document::Object { line: 1, .. }));
    assert!(matches!(&documents[1], Document::Invalid { key: None, .. }));
    assert!(matches!(&documents[2], Document::Object { line: 8, .. }));
    let [(line, field, _)] = faults(text).try_into().expect("one fault");
    assert!(
        (5..=7).contains(&line) && field.is_empty(),
        "line {line}, field `{field}`"
    );
}

#[test]
fn every_fault_has_its_own_line_and_field() {
    let text = "# a comment\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: x\n  namespace: db\n\
                spec:\n  endpointSelector: {}\n  ingress:\n  - fromEndpoints:\n    - {}\n    toPorts:\n    - ports:\n\
      \x20     - port: \"70000\"\n        protocol: TCP\n      - port: 80\n  - toFQDNs: []\n  nodeSelector: {}\n";
    let found = faults(text);
    let at: Vec<(u32, &str)> = found
        .iter()
        .map(|(line, field, _)| (*line, field.as_str()))
        .collect();
    assert_eq!(
        at,
        [
            (17, "spec.ingress[0].toPorts[0].ports[1].port"),
            (18, "spec.ingress[1].toFQDNs"),
            (19, "spec.nodeSelector"),
            (15, "spec.ingress[0].toPorts[0].ports[0].port"),
        ],
        "{found:#?}"
    );
}

#[test]
fn a_missing_field_is_reported_at_the_object_around_it() {
    let text =
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n  ingress: [{}]\n";
    assert_eq!(
        faults(text),
        [(
            4,
            "spec.endpointSelector".to_owned(),
            "required, but missing".to_owned()
        )]
    );
}

#[test]
fn a_policy_kind_that_is_not_supported_is_a_fault_and_a_deployment_is_not() {
    let text = "apiVersion: cilium.io/v2\nkind: CiliumLocalRedirectPolicy\nmetadata: {name: x}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n\
                apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\n";
    let found = faults(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].0, found[0].1.as_str()), (2, "kind"));
}

#[test]
fn a_misspelt_field_of_a_network_policy_is_a_fault() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec:\n  podSelector: {}\n\
                \x20 ingress:\n  - form:\n    - podSelector: {}\n";
    assert_eq!(
        faults(text),
        [(7, "spec.ingress[0].form".to_owned(), "unknown field".to_owned())]
    );
}

#[test]
fn a_list_is_its_items() {
    let text = "kind: List\napiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n  spec: {containers: []}\n  status:\n    podIPs:\n\
                \x20   - ip: nonsense\n";
    let documents = parse(text, "default");
    assert_eq!(documents.len(), 2);
    assert_eq!(
        faults(text),
        [(
            13,
            "items[1].status.podIPs[0].ip".to_owned(),
            "`nonsense` is not an address".to_owned()
        )]
    );
}

#[test]
fn json_is_read_as_well() {
    let text =
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y", "labels": {"ns": "y"}}}"#;
    assert!(matches!(
        parse(text, "default").as_slice(),
        [Document::Object { .. }]
    ));
}

#[test]
fn a_name_that_yaml_takes_for_a_boolean_is_a_fault_and_not_the_default_namespace() {
    for (metadata, field) in [
        ("{name: y}", "metadata.name"),
        ("{name: x, namespace: n}", "metadata.namespace"),
        ("{name: x, namespace: }", "metadata.namespace"),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec: {{containers: []}}\n");
        let found = faults(&text);
        assert!(found.len() == 1 && found[0].1 == field, "{metadata}: {found:?}");
    }
}

#[test]
fn comments_and_empty_documents_hold_nothing() {
    assert!(parse("# nothing\n---\n---\n# more\n...\n", "default").is_empty());
    assert!(parse("", "default").is_empty());
}

#[test]
fn hostile_documents_are_refused_without_harm() {
    let nested = "[".repeat(200_000);
    let bomb = (1..30).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let last = format!("*a{}", n - 1);
        text + &format!("a{n}: &a{n} [{}]\n", vec![last; 8].join(", "))
    });
    let mapped = "a: {".repeat(100_000);
    for text in [
        nested.as_str(),
        bomb.as_str(),
        mapped.as_str(),
        "\u{0}",
        "? [a]: b\n",
        "a: *nowhere\n",
        "- - - -\n",
    ] {
        let documents = parse(text, "default");
        assert!(
            documents
                .iter()
                .all(|d| matches!(d, Document::Invalid { key: None, .. })),
            "{documents:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in "(\\PC|\n|: |- |---\n|kind: |apiVersion: v1\n|[{}\\[\\],&*!|>'\"%#])*") {
        let _ = parse(&text, "default");
    }
}

#[test]
fn faults_of_a_document_that_is_no_object_have_their_lines() {
    let read = |text: &str| {
        read_document(text, |field| {
            let object = field.list()?.first()?.object(&["name"])?;
            object.required("name")?.string().map(str::to_owned)
        })
    };
    assert_eq!(read("# names\n- name: a\n").unwrap(), "a");
    let at = |text: &str| {
        let faults = read(text).unwrap_err();
        faults
            .iter()
            .map(|fault| (fault.line, fault.field.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(at("\n- name: a\n  nmae: b\n"), [(3, "[0].nmae".to_owned())]);
    assert_eq!(
        at("- name: a\n---\n- name: b\n"),
        [(1, String::new())],
        "one document only"
    );
    assert_eq!(at("- name: [\n").len(), 1);
    assert_eq!(at(""), [(1, String::new())]);
}
