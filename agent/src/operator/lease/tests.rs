use super::*;
use crate::operator::fake_server::{Cable, FakeServer};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/sluice-operator";

fn candidate(server: &FakeServer, identity: &str) -> (Candidate, Cable) {
    let cable = Cable::default();
    let config = LeaseConfig {
        namespace: "kube-system".into(),
        name: "sluice-operator".into(),
        identity: identity.into(),
    };
    (Candidate::new(server.client(&cable), config), cable)
}

fn holder(server: &FakeServer) -> String {
    server.get(PATH)["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Runs a candidate on its own; its term, and what ends it.
fn run(mut candidate: Candidate) -> (watch::Receiver<Term>, tokio::task::JoinHandle<()>) {
    let (sender, term) = watch::channel(None);
    (term, tokio::spawn(async move { candidate.run(&sender).await }))
}

async fn leads(term: &mut watch::Receiver<Term>) -> Instant {
    let limit = Duration::from_secs(60);
    time::timeout(limit, term.wait_for(Option::is_some))
        .await
        .expect("leads within a minute")
        .unwrap();
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn first_candidate_leads_and_renews_and_the_second_waits() {
    let server = FakeServer::default();
    let (first, _) = candidate(&server, "a");
    let (second, _) = candidate(&server, "b");
    let (mut term, _running) = run(first);
    leads(&mut term).await;
    let (other, _waiting) = run(second);
    time::sleep(Duration::from_secs(120)).await;
    assert!(
        term.borrow().is_some_and(|until| until > Instant::now()),
        "renewed all the time"
    );
    assert_eq!((*other.borrow(), holder(&server).as_str()), (None, "a"));
    assert_eq!(server.get(PATH)["spec"]["leaseTransitions"], 0);
    assert_eq!(server.get(PATH)["spec"]["leaseDurationSeconds"], 15);
}

#[tokio::test(start_paused = true)]
async fn holder_without_the_api_server_ends_its_term_before_another_leads() {
    let server = FakeServer::default();
    let (first, cable) = candidate(&server, "a");
    let (mut term, _running) = run(first);
    leads(&mut term).await;
    let (second, _) = candidate(&server, "b");
    let (mut other, _waiting) = run(second);
    time::sleep(Duration::from_secs(5)).await;
    cable.cut();
    let until = term.borrow().unwrap();
    let taken = leads(&mut other).await;
    assert!(
        until + Duration::from_secs(4) < taken,
        "{:?} between",
        taken - until
    );
    assert_eq!((*term.borrow(), holder(&server).as_str()), (None, "b"));
    cable.mend();
    time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*term.borrow(), None, "it does not take back what another has");
    assert_eq!(server.get(PATH)["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn holder_that_finds_another_in_the_lease_ends_its_term_at_the_next_try() {
    let server = FakeServer::default();
    let (first, _) = candidate(&server, "a");
    let (mut term, _running) = run(first);
    leads(&mut term).await;
    let mut lease = *server.get(PATH);
    lease["spec"]["holderIdentity"] = "b".into();
    server.put(PATH, lease);
    let lost = term.wait_for(Option::is_none);
    time::timeout(RETRY + Duration::from_millis(1), lost)
        .await
        .expect("within one try")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn lease_that_is_given_back_is_taken_at_the_next_try() {
    let server = FakeServer::default();
    let (mut first, _) = candidate(&server, "a");
    assert!(first.acquire().await.unwrap());
    let (second, _) = candidate(&server, "b");
    let (mut term, _running) = run(second);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*term.borrow(), None);
    first.release().await.unwrap();
    let began = Instant::now();
    assert!(leads(&mut term).await - began <= RETRY);
    first.release().await.unwrap();
    assert_eq!(holder(&server), "b", "only one's own lease is given back");
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_for_an_abandoned_lease_one_is_refused() {
    let server = FakeServer::default();
    let (mut gone, _) = candidate(&server, "gone");
    assert!(gone.acquire().await.unwrap());
    let (mut first, _) = candidate(&server, "a");
    let (mut second, _) = candidate(&server, "b");
    assert!(!first.acquire().await.unwrap() && !second.acquire().await.unwrap());
    time::sleep(LEASE).await;
    server.asked();
    // Both decide on the same version of the lease before either writes.
    let (first, second) = tokio::join!(first.acquire(), second.acquire());
    let writes = server
        .asked()
        .iter()
        .filter(|asked| asked.method == "PUT")
        .count();
    assert_eq!(writes, 2, "both tried");
    assert!(first.unwrap() != second.unwrap());
}
