//! The loader against the kernel: real interfaces, links and packets.
//!
//! Each test runs itself again in a mount and a network namespace of its own (`unshare`), where it mounts a private
//! bpffs and plays the host; a second network namespace plays the pod. Both end with their processes, so nothing
//! outlives a test. Needs root: without it the tests say so and pass, unless `SLUICE_REQUIRE_ROOT=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType, loaded_links, loaded_programs};
use rustix::net::{AddressFamily, SocketType, socket};
use sluice_datapath::loader::{GuardDrops, LoadError, Loader, XdpMode};

/// Set in the process that runs inside the namespaces: where its bpffs is mounted.
const INSIDE: &str = "SLUICE_LOADER_TEST_BPFFS";

const HOST: &str = "10.99.0.1";
const POD: &str = "10.99.0.2";
const HOST_MAC: &str = "02:00:00:00:00:01";
const POD_MAC: &str = "02:00:00:00:00:02";
const VETH: &str = "veth.pod";

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Runs `body` inside namespaces, by running the test `name` of this file again there.
fn in_namespaces(name: &str, body: impl FnOnce(&Path)) {
    if let Some(bpffs) = env::var_os(INSIDE) {
        let bpffs = PathBuf::from(bpffs);
        run(
            "mount",
            &["-t", "bpf", "bpf", bpffs.to_str().expect("a UTF-8 path")],
        );
        ip("link set lo up");
        return body(&bpffs);
    }
    if !rustix::process::geteuid().is_root() {
        assert_ne!(
            env::var("SLUICE_REQUIRE_ROOT").as_deref(),
            Ok("1"),
            "this test needs root"
        );
        eprintln!("skipped: needs root for network namespaces and eBPF");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let test = env::current_exe().expect("the test's own path");
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "--"])
        .arg(test)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, directory.path())
        .status()
        .expect("unshare");
    assert!(status.success(), "{name} failed inside its namespaces");
}

/// A network namespace that lives as long as this value.
struct Pod {
    holder: Child,
}

impl Pod {
    fn new() -> Self {
        // `cat` ends with the pipe, so the namespace goes even when this process is killed.
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("unshare");
        let pod = Self { holder };
        let own = fs::read_link("/proc/self/ns/net").expect("own namespace");
        wait_until("the pod's namespace", || {
            fs::read_link(pod.proc("ns/net")).is_ok_and(|namespace| namespace != own)
        });
        pod
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.holder.id()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--", program]);
        command
    }

    fn ip(&self, arguments: &str) {
        let output = self
            .command("ip")
            .args(arguments.split(' '))
            .output()
            .expect("nsenter");
        assert!(
            output.status.success(),
            "{arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Makes the veth pair of a pod: host end `name`, permanent neighbours so that only what a test sends is sent.
    fn connect(&self, name: &str, options: &str) -> u32 {
        let pid = self.holder.id();
        let options = if options.is_empty() {
            String::new()
        } else {
            format!(" {options}")
        };
        ip(&format!(
            "link add {name}{options} type veth peer name eth0 netns {pid}"
        ));
        ip(&format!("link set {name} address {HOST_MAC} addrgenmode none up"));
        ip(&format!("addr add {HOST}/24 dev {name}"));
        ip(&format!(
            "neigh replace {POD} lladdr {POD_MAC} dev {name} nud permanent"
        ));
        self.ip(&format!("link set eth0 address {POD_MAC} addrgenmode none up"));
        self.ip(&format!("addr add {POD}/24 dev eth0"));
        self.ip(&format!(
            "neigh replace {HOST} lladdr {HOST_MAC} dev eth0 nud permanent"
        ));
        index_of(name)
    }

    /// Whether the host answers the pod.
    fn reaches_host(&self) -> bool {
        let status = self
            .command("ping")
            .args(["-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", HOST])
            .output();
        status.expect("ping").status.success()
    }

    fn sent_packets(&self) -> u64 {
        device_counter(&self.proc("net/dev"), "eth0", 9)
    }

    fn received_packets(&self) -> u64 {
        device_counter(&self.proc("net/dev"), "eth0", 1)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().expect("the namespace's holder");
    }
}

/// Whether the pod answers the host.
fn host_reaches_pod() -> bool {
    let ping = Command::new("ping")
        .args(["-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", POD])
        .output();
    ping.expect("ping").status.success()
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Field `column` (0: received bytes) of a device in `/proc/net/dev`.
fn device_counter(file: &Path, device: &str, column: usize) -> u64 {
    let text = fs::read_to_string(file).expect("device counters");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")))
        .expect("the device");
    line.split_whitespace()
        .nth(column)
        .expect("a column")
        .parse()
        .expect("a number")
}

/// Packets that entered the host's IPv4 stack (`Ip: InReceives`).
fn host_received() -> u64 {
    let text = fs::read_to_string("/proc/self/net/snmp").expect("IP counters");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let names = rows.next().expect("names").split(' ');
    let values = rows.next().expect("values").split(' ');
    let value = names
        .zip(values)
        .find(|(name, _)| *name == "InReceives")
        .expect("InReceives")
        .1;
    value.parse().expect("a number")
}

fn index_of(name: &str) -> u32 {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()
        .expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(':')
        .next()
        .expect("an index")
        .parse()
        .expect("a number")
}

/// Id of the XDP program of a device.
fn xdp_program(device: &str) -> Option<u32> {
    let output = Command::new("ip")
        .args(["-d", "-o", "link", "show", "dev", device])
        .output()
        .expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    let (_, id) = text.split_once("prog/xdp id ")?;
    Some(id.split_whitespace().next()?.parse().expect("a number"))
}

fn link_pins(bpffs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(bpffs.join("v1/links")).expect("the links");
    let mut pins: Vec<_> = entries.map(|entry| entry.expect("a pin").path()).collect();
    pins.sort();
    pins
}

/// Names of the interfaces that something is pinned of.
fn pinned(bpffs: &Path) -> BTreeSet<String> {
    let name = |pin: &PathBuf| {
        let name = pin.file_name().expect("a name").to_str().expect("text");
        name.splitn(3, '-').nth(2).expect("three parts").replace(':', ".")
    };
    link_pins(bpffs).iter().map(name).collect()
}

/// Ids of the link and of its program, per pin.
fn link_ids(bpffs: &Path) -> Vec<(u32, u32)> {
    let link = |pin: &PathBuf| {
        let info = FdLink::from(PinnedLink::from_pin(pin).expect("a link"))
            .info()
            .expect("link info");
        (info.id(), info.program_id())
    };
    link_pins(bpffs).iter().map(link).collect()
}

/// Pings out of the pod must leave it, and nothing of them may enter the host's stack.
fn assert_nothing_enters_the_host(pod: &Pod) {
    let (sent, received) = (pod.sent_packets(), host_received());
    assert!(!pod.reaches_host(), "the host answered");
    assert!(pod.sent_packets() >= sent + 2, "the pod sent nothing");
    assert_eq!(host_received(), received, "packets entered the host's stack");
}

#[test]
fn empty_slot_lets_nothing_into_the_host_stack() {
    in_namespaces("empty_slot_lets_nothing_into_the_host_stack", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        assert!(pod.reaches_host(), "control: the pair works without a program");
        let mut loader = Loader::open(bpffs).expect("open");
        assert_eq!(
            loader.attach(ifindex, VETH, 7, 1).expect("attach"),
            XdpMode::Native
        );
        assert_nothing_enters_the_host(&pod);
    });
}

#[test]
fn socket_that_is_not_bound_to_the_queue_lets_nothing_into_the_host_stack() {
    in_namespaces(
        "socket_that_is_not_bound_to_the_queue_lets_nothing_into_the_host_stack",
        |bpffs| {
            let pod = Pod::new();
            let ifindex = pod.connect(VETH, "");
            let mut loader = Loader::open(bpffs).expect("open");
            loader.attach(ifindex, VETH, 7, 1).expect("attach");
            let xdp = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
            loader.set_socket(7, &xdp).expect("set");
            assert_nothing_enters_the_host(&pod);
            loader.clear_socket(7).expect("clear");
            loader.clear_socket(7).expect("clear again");
            assert_nothing_enters_the_host(&pod);
        },
    );
}

#[test]
fn slots_take_only_sockets_and_keys_that_exist() {
    in_namespaces("slots_take_only_sockets_and_keys_that_exist", |bpffs| {
        let mut loader = Loader::open(bpffs).expect("open");
        let xdp = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        loader
            .set_socket(xdp_redirect::XSK_ENTRIES - 1, &xdp)
            .expect("the last key");
        let beyond = loader.set_socket(xdp_redirect::XSK_ENTRIES, &xdp);
        assert!(
            matches!(
                beyond,
                Err(LoadError::Slot {
                    key: xdp_redirect::XSK_ENTRIES,
                    ..
                })
            ),
            "{beyond:?}"
        );
        let other = loader.set_socket(0, &udp);
        assert!(matches!(other, Err(LoadError::Slot { key: 0, .. })), "{other:?}");
    });
}

#[test]
fn keys_beyond_the_map_are_refused() {
    in_namespaces("keys_beyond_the_map_are_refused", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        let entries = xdp_redirect::XSK_ENTRIES;
        for (base, queues) in [
            (0, 0),
            (entries, 1),
            (entries - 1, 2),
            (u32::MAX, 1),
            (0, entries + 1),
        ] {
            let result = loader.attach(ifindex, VETH, base, queues);
            assert!(
                matches!(result, Err(LoadError::Keys { .. })),
                "{base}+{queues}: {result:?}"
            );
        }
        assert_eq!(link_pins(bpffs), Vec::<PathBuf>::new());
        loader
            .attach(ifindex, VETH, entries - 1, 1)
            .expect("the last key");
    });
}

#[test]
fn guard_drops_and_counts_what_the_kernel_sends() {
    in_namespaces("guard_drops_and_counts_what_the_kernel_sends", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        assert!(host_reaches_pod(), "control: the pair works without a guard");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        assert_eq!(loader.guard_drops().expect("drops"), GuardDrops::default());
        let received = pod.received_packets();
        assert!(!host_reaches_pod(), "the pod answered");
        assert_eq!(pod.received_packets(), received, "packets reached the pod");
        let drops = loader.guard_drops().expect("drops");
        // The drop is reported to ping, which tries again: Ethernet, IPv4, ICMP and 56 bytes each time.
        assert!(drops.packets >= 2, "{drops:?}");
        assert_eq!(drops.bytes, drops.packets * (14 + 20 + 8 + 56));
    });
}

#[test]
fn guarded_interface_lets_nothing_into_the_host_stack_before_the_redirect_program_and_after() {
    in_namespaces(
        "guarded_interface_lets_nothing_into_the_host_stack_before_the_redirect_program_and_after",
        |bpffs| {
            let pod = Pod::new();
            let ifindex = pod.connect(VETH, "");
            assert!(pod.reaches_host(), "control: the pair works without a guard");
            let mut loader = Loader::open(bpffs).expect("open");
            loader.guard(ifindex, VETH).expect("guard");
            let before = loader.guard_drops().expect("drops").packets;
            assert_nothing_enters_the_host(&pod);
            let between = loader.guard_drops().expect("drops").packets;
            assert!(between >= before + 2, "nothing was counted");
            loader.attach(ifindex, VETH, 0, 1).expect("attach");
            let attached = loader.guard_drops().expect("drops").packets;
            assert_nothing_enters_the_host(&pod);
            assert_eq!(
                loader.guard_drops().expect("drops").packets,
                attached,
                "XDP comes first"
            );
            // As an administrator's `rm` does.
            let redirect = link_pins(bpffs)
                .into_iter()
                .find(|pin| pin.to_string_lossy().contains("xdp_"));
            fs::remove_file(redirect.expect("the redirect program's pin")).expect("remove");
            wait_until("the redirect program is gone", || {
                assert_nothing_enters_the_host(&pod);
                loader.guard_drops().expect("drops").packets > attached
            });
        },
    );
}

#[test]
fn programs_survive_the_loader() {
    in_namespaces("programs_survive_the_loader", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        drop(loader);
        assert_nothing_enters_the_host(&pod);
        let received = pod.received_packets();
        assert!(!host_reaches_pod(), "the pod answered");
        assert_eq!(pod.received_packets(), received, "packets reached the pod");
    });
}

#[test]
fn reopened_loader_adopts_links_and_counters() {
    in_namespaces("reopened_loader_adopts_links_and_counters", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        assert!(!host_reaches_pod());
        let (before, drops) = (link_ids(bpffs), loader.guard_drops().expect("drops"));
        drop(loader);

        let mut loader = Loader::open(bpffs).expect("open again");
        assert_eq!(pinned(bpffs), BTreeSet::from([VETH.to_owned()]));
        assert_eq!(loader.guard_drops().expect("drops"), drops);
        loader.guard(ifindex, VETH).expect("guard again");
        assert_eq!(
            loader.attach(ifindex, VETH, 9, 1).expect("attach again"),
            XdpMode::Native
        );
        let after = link_ids(bpffs);
        assert_eq!(before.len(), 3);
        for (old, new) in before.iter().zip(&after) {
            assert_eq!(old.0, new.0, "the link was replaced");
            assert_ne!(old.1, new.1, "the program was not");
        }
    });
}

#[test]
fn updates_leave_no_moment_without_a_program() {
    in_namespaces("updates_leave_no_moment_without_a_program", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        let (received_by_host, sent, received_by_pod) =
            (host_received(), pod.sent_packets(), pod.received_packets());
        let mut flood = pod
            .command("ping")
            .args(["-n", "-q", "-f", HOST])
            .stdout(Stdio::null())
            .spawn()
            .expect("ping");
        for round in 0..20 {
            loader.attach(ifindex, VETH, round, 1).expect("attach again");
            loader.guard(ifindex, VETH).expect("guard again");
        }
        wait_until("the flood has been going on meanwhile", || {
            pod.sent_packets() > sent + 20
        });
        flood.kill().expect("kill ping");
        flood.wait().expect("ping");
        assert_eq!(
            host_received(),
            received_by_host,
            "packets entered the host's stack"
        );
        assert_eq!(pod.received_packets(), received_by_pod, "packets reached the pod");
        assert_eq!(link_pins(bpffs).len(), 3);
    });
}

#[test]
fn detach_leaves_nothing() {
    in_namespaces("detach_leaves_nothing", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        // The kernel detaches in the background: one round might be lucky.
        for round in 0..10 {
            loader.guard(ifindex, VETH).expect("guard");
            loader.attach(ifindex, VETH, 0, 1).expect("attach");
            let ids = link_ids(bpffs);
            let redirect = xdp_program(VETH).expect("an XDP program");
            loader.detach(VETH).expect("detach");
            assert!(
                !loaded_programs().flatten().any(|info| info.id() == redirect),
                "round {round}: the device still runs the program"
            );
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) = SchedClassifier::query_tcx(VETH, hook).expect("query");
                assert!(programs.is_empty(), "round {round}: guarded at {hook:?}");
            }
            assert_eq!(xdp_program(VETH), None, "round {round}");
            assert!(
                !loaded_links()
                    .flatten()
                    .any(|info| ids.iter().any(|(link, _)| *link == info.id()))
            );
            assert_eq!(pinned(bpffs), BTreeSet::new());
        }
        assert!(
            pod.reaches_host() && host_reaches_pod(),
            "the pair does not work as before"
        );
        loader.detach(VETH).expect("detach again");
        loader.attach(ifindex, VETH, 0, 1).expect("attach after detach");
    });
}

#[test]
fn detach_of_one_interface_leaves_the_other() {
    in_namespaces("detach_of_one_interface_leaves_the_other", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        ip("link add other type veth peer name other-peer");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        loader
            .attach(index_of("other"), "other", 1, 1)
            .expect("attach the other");
        loader.detach("other").expect("detach");
        assert_eq!(pinned(bpffs), BTreeSet::from([VETH.to_owned()]));
        assert_nothing_enters_the_host(&pod);
    });
}

#[test]
fn remove_all_leaves_no_residue() {
    in_namespaces("remove_all_leaves_no_residue", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let root = bpffs.join("sluice");
        let mut loader = Loader::open(&root).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        drop(loader);
        Loader::remove_all(&root).expect("remove");
        assert!(!root.exists());
        assert!(
            pod.reaches_host() && host_reaches_pod(),
            "the pair does not work as before"
        );
        Loader::remove_all(&root).expect("remove again");
        Loader::remove_all(bpffs).expect("a mount point stays");
    });
}

#[test]
fn pin_of_a_vanished_device_is_not_taken_for_its_successor() {
    in_namespaces(
        "pin_of_a_vanished_device_is_not_taken_for_its_successor",
        |bpffs| {
            let pod = Pod::new();
            let mut loader = Loader::open(bpffs).expect("open");
            // The second and third device have the name of the first, the third also the index of the second.
            let mut used = Vec::new();
            for options in ["", "", "index"] {
                let options = used
                    .last()
                    .filter(|_| options == "index")
                    .map(|index| format!("index {index}"));
                let ifindex = pod.connect(VETH, options.as_deref().unwrap_or_default());
                assert!(
                    pod.reaches_host(),
                    "control: nothing is attached to the new device"
                );
                loader.guard(ifindex, VETH).expect("guard");
                loader.attach(ifindex, VETH, 0, 1).expect("attach");
                assert_eq!(link_pins(bpffs).len(), 3, "stale pins stay");
                assert_nothing_enters_the_host(&pod);
                let received = pod.received_packets();
                assert!(!host_reaches_pod(), "the pod answered");
                assert_eq!(pod.received_packets(), received, "packets reached the pod");
                ip(&format!("link del {VETH}"));
                used.push(ifindex);
            }
            assert_ne!(used[0], used[1]);
            assert_eq!(used[1], used[2]);
        },
    );
}

#[test]
fn renamed_device_stays_closed_when_its_name_is_reused() {
    in_namespaces("renamed_device_stays_closed_when_its_name_is_reused", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        loader.guard(ifindex, VETH).expect("guard");
        loader.attach(ifindex, VETH, 0, 1).expect("attach");
        ip(&format!("link set {VETH} down"));
        ip(&format!("link set {VETH} name former up"));
        ip(&format!(
            "neigh replace {POD} lladdr {POD_MAC} dev former nud permanent"
        ));
        ip(&format!("link add {VETH} type veth peer name unused"));
        loader.guard(index_of(VETH), VETH).expect("guard the new device");
        loader
            .attach(index_of(VETH), VETH, 1, 1)
            .expect("attach to the new device");
        let both = BTreeSet::from([VETH.to_owned(), "former".to_owned()]);
        assert_eq!(pinned(bpffs), both);
        loader.detach(VETH).expect("detach the new device");
        assert_nothing_enters_the_host(&pod);
        assert!(!host_reaches_pod(), "the pod answered");
    });
}

#[test]
fn renamed_devices_are_followed_and_only_those_that_are_gone_are_let_go() {
    in_namespaces(
        "renamed_devices_are_followed_and_only_those_that_are_gone_are_let_go",
        |bpffs| {
            let pod = Pod::new();
            let ifindex = pod.connect(VETH, "");
            ip("link add other type veth peer name other-peer");
            let other = index_of("other");
            let mut loader = Loader::open(bpffs).expect("open");
            for (key, index, name) in [(0, ifindex, VETH), (1, other, "other")] {
                loader.guard(index, name).expect("guard");
                loader.attach(index, name, key, 1).expect("attach");
            }
            assert_eq!(loader.renamed().expect("renamed"), BTreeMap::new());
            // Each has the other's name now.
            ip(&format!("link set {VETH} name between"));
            ip(&format!("link set other name {VETH}"));
            ip("link set between name other");
            let swapped =
                [(VETH, "other"), ("other", VETH)].map(|(from, to)| (from.to_owned(), to.to_owned()));
            assert_eq!(loader.renamed().expect("renamed"), BTreeMap::from(swapped));
            assert_eq!(loader.detach_vanished().expect("none"), BTreeSet::new());
            loader.follow_renames().expect("follow");
            assert_eq!(loader.renamed().expect("renamed"), BTreeMap::new());

            let both = BTreeSet::from(["other".to_owned(), VETH.to_owned()]);
            assert_eq!(pinned(bpffs), both);
            ip(&format!("link del {VETH}"));
            let gone = BTreeSet::from([VETH.to_owned()]);
            assert_eq!(loader.detach_vanished().expect("one"), gone);
            assert_eq!(pinned(bpffs), BTreeSet::from(["other".to_owned()]));
            assert_nothing_enters_the_host(&pod);
        },
    );
}

#[test]
fn name_and_index_of_different_devices_are_refused() {
    in_namespaces("name_and_index_of_different_devices_are_refused", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut loader = Loader::open(bpffs).expect("open");
        for (index, name) in [(ifindex + 1000, VETH), (1, VETH), (ifindex, "lo")] {
            let attached = loader.attach(index, name, 0, 1);
            assert!(
                matches!(attached, Err(LoadError::NoInterface { .. })),
                "{attached:?}"
            );
            let guarded = loader.guard(index, name);
            assert!(
                matches!(guarded, Err(LoadError::NoInterface { .. })),
                "{guarded:?}"
            );
        }
        assert_eq!(link_pins(bpffs), Vec::<PathBuf>::new());
    });
}

#[test]
fn program_of_another_agent_is_reported_as_busy() {
    in_namespaces("program_of_another_agent_is_reported_as_busy", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "");
        let mut other = Loader::open(&bpffs.join("other")).expect("open");
        other.attach(ifindex, VETH, 0, 1).expect("attach");
        let mut loader = Loader::open(&bpffs.join("own")).expect("open");
        let result = loader.attach(ifindex, VETH, 0, 1);
        assert!(
            matches!(&result, Err(LoadError::Busy { interface }) if interface == VETH),
            "{result:?}"
        );
        assert_eq!(pinned(&bpffs.join("own")), BTreeSet::new());
    });
}

#[test]
fn driver_without_xdp_is_attached_in_generic_mode_and_says_so() {
    in_namespaces(
        "driver_without_xdp_is_attached_in_generic_mode_and_says_so",
        |bpffs| {
            let mut loader = Loader::open(bpffs).expect("open");
            assert_eq!(loader.attach(1, "lo", 0, 1).expect("attach"), XdpMode::Generic);
            drop(loader);
            let mut loader = Loader::open(bpffs).expect("open again");
            assert_eq!(
                loader.attach(1, "lo", 0, 1).expect("attach again"),
                XdpMode::Generic
            );
            let ping = Command::new("ping")
                .args(["-n", "-q", "-c", "1", "-W", "1", "127.0.0.1"])
                .output()
                .expect("ping");
            assert!(!ping.status.success(), "a packet passed");
        },
    );
}

#[test]
fn jumbo_interface_is_attached_natively() {
    in_namespaces("jumbo_interface_is_attached_natively", |bpffs| {
        let pod = Pod::new();
        let ifindex = pod.connect(VETH, "mtu 9000");
        let mut loader = Loader::open(bpffs).expect("open");
        assert_eq!(
            loader.attach(ifindex, VETH, 0, 1).expect("attach"),
            XdpMode::Native
        );
    });
}

#[test]
fn directory_outside_a_bpf_file_system_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let below = directory.path().join("a/b");
    assert!(matches!(Loader::open(&below), Err(LoadError::NotBpffs { .. })));
    assert_eq!(fs::read_dir(directory.path()).expect("the directory").count(), 0);
}

#[test]
fn map_of_another_layout_is_refused() {
    in_namespaces("map_of_another_layout_is_refused", |bpffs| {
        drop(Loader::open(bpffs).expect("open"));
        let root = bpffs.join("v1");
        fs::rename(root.join(xdp_redirect::GUARD_MAP), root.join("elsewhere")).expect("rename");
        fs::rename(
            root.join(xdp_redirect::XSK_MAP),
            root.join(xdp_redirect::GUARD_MAP),
        )
        .expect("rename");
        let result = Loader::open(bpffs);
        assert!(
            matches!(&result, Err(LoadError::MapLayout { path }) if path.ends_with(xdp_redirect::GUARD_MAP))
        );
    });
}
