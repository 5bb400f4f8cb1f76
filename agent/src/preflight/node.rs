//! Checks of the node that this runs on.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use serde_json::Value;

use super::{Check, LEAST_KERNEL, is_new_enough};
use crate::cni::installation::Installation;
use crate::node::conflict::{CILIUM_HOST, KUBE_IPVS};

/// Locked memory without CAP_IPC_LOCK, bytes: the UMEM.
const LEAST_MEMLOCK: u64 = 64 << 20;

/// Largest file of the kernel's that is read, bytes.
const MOST_FILE: u64 = 4 << 20;

/// Plugins that sluice was tried behind.
const TRIED_PLUGINS: [&str; 2] = ["ptp", "bridge"];

/// Capabilities by number (capabilities(7)).
const CAPABILITIES: [(u32, &str); 3] = [(12, "NET_ADMIN"), (13, "NET_RAW"), (39, "BPF")];
const IPC_LOCK: u32 = 14;
const SYS_ADMIN: u32 = 21;

/// What the kernel must have been built with.
const KERNEL_OPTIONS: [&str; 6] = [
    "CONFIG_BPF_SYSCALL",
    "CONFIG_XDP_SOCKETS",
    "CONFIG_NET_XGRESS",
    "CONFIG_VETH",
    "CONFIG_IP_MULTIPLE_TABLES",
    "CONFIG_IPV6_MULTIPLE_TABLES",
];

/// A node, by its files.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    cni_conf_dir: PathBuf,
    bpffs: PathBuf,
}

impl Machine {
    /// The node whose files are under `root`; the folders are as seen from there.
    #[must_use]
    pub const fn new(root: PathBuf, cni_conf_dir: PathBuf, bpffs: PathBuf) -> Self {
        Self {
            root,
            cni_conf_dir,
            bpffs,
        }
    }

    /// Every check.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            self.kernel(),
            self.kernel_options(),
            af_xdp(),
            self.bpf_file_system(),
            self.btf(),
            self.capabilities(),
            self.memlock(),
            self.cgroup(),
            self.forwarding("ip-forward", "net/ipv4/ip_forward"),
            self.forwarding("ipv6-forward", "net/ipv6/conf/all/forwarding"),
            self.reverse_path(),
        ];
        checks.extend(self.cni());
        checks.push(self.masquerading());
        checks.push(self.cilium());
        checks.push(self.ipvs());
        checks
    }

    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(self.path(path))?
            .take(MOST_FILE)
            .read_to_string(&mut text)?;
        Ok(text.trim_end().to_owned())
    }

    fn release(&self) -> String {
        self.read("/proc/sys/kernel/osrelease").unwrap_or_default()
    }

    fn kernel(&self) -> Check {
        let release = self.release();
        let (major, minor) = LEAST_KERNEL;
        let remedy =
            format!("sluice needs {major}.{minor} or newer: AF_XDP with fragments, tcx for the guard");
        match is_new_enough(&release) {
            Some(true) => Check::ok("kernel", release),
            Some(false) => Check::error("kernel", release, remedy),
            None => Check::warning("kernel", format!("release `{release}` cannot be read"), remedy),
        }
    }

    /// Options from /proc/config.gz or /boot, where there is either.
    fn kernel_options(&self) -> Check {
        const NAME: &str = "kernel-options";
        let mut text = String::new();
        let compressed = fs::File::open(self.path("/proc/config.gz"));
        let read = compressed.and_then(|file| {
            let mut plain = flate2::read::GzDecoder::new(file).take(MOST_FILE);
            plain.read_to_string(&mut text)
        });
        if read.is_err() {
            match self.read(&format!("/boot/config-{}", self.release())) {
                Ok(config) => text = config,
                Err(_) => {
                    return Check::ok(
                        NAME,
                        "unknown: neither /proc/config.gz nor a file in /boot; see the other checks",
                    );
                }
            }
        }
        let is_set = |option: &&&str| {
            text.lines().any(|line| {
                line.strip_prefix(**option)
                    .is_some_and(|rest| rest == "=y" || rest == "=m")
            })
        };
        let missing: Vec<_> = KERNEL_OPTIONS
            .iter()
            .filter(|option| !is_set(option))
            .copied()
            .collect();
        if missing.is_empty() {
            Check::ok(NAME, KERNEL_OPTIONS.join(", "))
        } else {
            let remedy = "use a kernel that was built with them: pods cannot be attached without";
            Check::error(NAME, format!("not set: {}", missing.join(", ")), remedy)
        }
    }

    fn bpf_file_system(&self) -> Check {
        const NAME: &str = "bpffs";
        let mounts = self.read("/proc/self/mounts").unwrap_or_default();
        let is_mounted = mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next().is_some_and(|at| Path::new(at) == self.bpffs) && fields.next() == Some("bpf")
        });
        let at = self.bpffs.display();
        if is_mounted {
            Check::ok(NAME, format!("mounted at {at}"))
        } else {
            let remedy = format!(
                "programs could not outlive the agent, which keeps pods closed: mount -t bpf bpf {at}, and in /etc/fstab"
            );
            Check::error(NAME, format!("not mounted at {at}"), remedy)
        }
    }

    fn btf(&self) -> Check {
        if self.path("/sys/kernel/btf/vmlinux").exists() {
            return Check::ok("btf", "/sys/kernel/btf/vmlinux");
        }
        let remedy = "sluice does without; bpftool shows less of its programs (CONFIG_DEBUG_INFO_BTF)";
        Check::warning("btf", "the kernel describes no types", remedy)
    }

    /// This process' effective capabilities.
    fn effective(&self) -> u64 {
        let status = self.read("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .unwrap_or(0)
    }

    fn capabilities(&self) -> Check {
        const NAME: &str = "capabilities";
        let effective = self.effective();
        let missing: Vec<_> = CAPABILITIES
            .iter()
            .filter(|(number, _)| effective & (1 << number) == 0)
            .map(|(_, name)| format!("CAP_{name}"))
            .collect();
        if !missing.is_empty() {
            let remedy = "run this as root on the node, or give the agent's container these capabilities";
            return Check::error(NAME, format!("missing: {}", missing.join(", ")), remedy);
        }
        if effective & (1 << SYS_ADMIN) == 0 {
            let remedy = "pods that are there already stay without policy, and pods' ends of veths cannot be tuned: give the \
                          agent's container this capability";
            return Check::warning(NAME, "missing: CAP_SYS_ADMIN", remedy);
        }
        Check::ok(NAME, "CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN")
    }

    fn memlock(&self) -> Check {
        const NAME: &str = "memlock";
        if self.effective() & (1 << IPC_LOCK) != 0 {
            return Check::ok(NAME, "unlimited by CAP_IPC_LOCK");
        }
        let limits = self.read("/proc/self/limits").unwrap_or_default();
        let soft = limits.lines().find_map(|line| {
            line.strip_prefix("Max locked memory")?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        });
        match soft.as_deref() {
            Some("unlimited") => Check::ok(NAME, "unlimited"),
            Some(bytes) if bytes.parse::<u64>().is_ok_and(|bytes| bytes > LEAST_MEMLOCK) => {
                Check::ok(NAME, format!("{bytes} bytes"))
            }
            found => {
                let remedy = format!(
                    "packet buffers need more than {LEAST_MEMLOCK} bytes: give CAP_IPC_LOCK, or raise the limit"
                );
                Check::error(NAME, format!("{} bytes", found.unwrap_or("unknown")), remedy)
            }
        }
    }

    fn cgroup(&self) -> Check {
        let mounts = self.read("/proc/self/mounts").unwrap_or_default();
        let is_unified = mounts
            .lines()
            .any(|line| line.split(' ').skip(1).take(2).eq(["/sys/fs/cgroup", "cgroup2"]));
        // sluice attaches nothing to cgroups; it is told for who reads the report.
        Check::ok(
            "cgroup",
            if is_unified {
                "version 2"
            } else {
                "version 1 or mixed"
            },
        )
    }

    fn forwarding(&self, name: &'static str, sysctl: &str) -> Check {
        let key = sysctl.replace('/', ".");
        match self.read(&format!("/proc/sys/{sysctl}")).as_deref() {
            Ok("1") => Check::ok(name, format!("{key} = 1")),
            Ok(value) => {
                let remedy = format!(
                    "packets between pods and other nodes go through the kernel: sysctl -w {key}=1, and in /etc/sysctl.d"
                );
                Check::error(name, format!("{key} = {value}"), remedy)
            }
            Err(_) if name.starts_with("ipv6") => Check::ok(name, "no IPv6 on this node"),
            Err(error) => Check::warning(name, format!("{key}: {error}"), "cannot be told"),
        }
    }

    /// The agent's own interfaces get loose mode by themselves; the others' modes are left.
    fn reverse_path(&self) -> Check {
        let value = self.read("/proc/sys/net/ipv4/conf/all/rp_filter");
        let value = value.unwrap_or_else(|error| error.to_string());
        Check::ok(
            "rp-filter",
            format!("net.ipv4.conf.all.rp_filter = {value}; sluice sets its own interfaces to 2"),
        )
    }

    fn cni(&self) -> Vec<Check> {
        const NAME: &str = "cni";
        let installation = Installation {
            conf_dir: None,
            bin_dir: None,
            plugin: PathBuf::new(),
            socket: PathBuf::new(),
        };
        let (source, list) = match installation.list(&self.path(&self.cni_conf_dir)) {
            Ok(found) => found,
            Err(error) => {
                let remedy = "pods come under policy by a list of plugins behind the node's own: install a network of veth pairs first (ptp, bridge)";
                return vec![Check::error(NAME, error.to_string(), remedy)];
            }
        };
        let list: Value = serde_json::from_slice(&list).unwrap_or_default();
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        let first = plugins
            .first()
            .and_then(|plugin| plugin["type"].as_str())
            .unwrap_or_default()
            .to_owned();
        let mut checks = vec![if TRIED_PLUGINS.contains(&first.as_str()) {
            Check::ok(NAME, format!("{source}: {first}"))
        } else {
            let remedy = format!(
                "sluice was tried behind {}: try it on one node",
                TRIED_PLUGINS.join(" and ")
            );
            Check::warning(NAME, format!("{source}: {first}"), remedy)
        }];
        if plugins.iter().any(|plugin| plugin["ipMasq"] == true) {
            let remedy = "packets to pods of other nodes leave with this node's address, and policies there take them for the node's: set ipMasq to false, and masquerade only what leaves the cluster";
            checks.push(Check::error(
                "cni-masquerading",
                format!("{source}: ipMasq is true"),
                remedy,
            ));
        }
        checks.push(self.mtu(&plugins));
        checks
    }

    /// The pods' MTU against that of the interface that the default route leads to.
    fn mtu(&self, plugins: &[Value]) -> Check {
        const NAME: &str = "mtu";
        let routes = self.read("/proc/net/route").unwrap_or_default();
        let uplink = routes.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace();
            let interface = fields.next()?;
            (fields.next() == Some("00000000")).then(|| interface.to_owned())
        });
        let Some(uplink) = uplink else {
            return Check::ok(NAME, "no default route to compare with");
        };
        let of_uplink = self
            .read(&format!("/sys/class/net/{uplink}/mtu"))
            .ok()
            .and_then(|mtu| mtu.parse::<u64>().ok());
        let of_pods = plugins
            .iter()
            .find_map(|plugin| plugin["mtu"].as_u64())
            .filter(|mtu| *mtu > 0);
        match (of_uplink, of_pods) {
            (Some(uplink_mtu), Some(pods)) if pods > uplink_mtu => {
                let remedy = "packets for other nodes are answered with `too big`, or lost: set the plugin's mtu to the uplink's or less";
                Check::warning(NAME, format!("{pods} in pods, {uplink_mtu} on {uplink}"), remedy)
            }
            (of_uplink, of_pods) => {
                let text = |mtu: Option<u64>| mtu.map_or_else(|| "the default".into(), |mtu| mtu.to_string());
                Check::ok(
                    NAME,
                    format!("{} in pods, {} on {uplink}", text(of_pods), text(of_uplink)),
                )
            }
        }
    }

    /// Rules of iptables that masquerade whatever pods send, to whomever.
    fn masquerading(&self) -> Check {
        const NAME: &str = "masquerading";
        let output = std::process::Command::new("iptables-save")
            .args(["-t", "nat"])
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                let rules: Vec<_> = text.lines().filter(|line| masquerades_all(line)).collect();
                if rules.is_empty() {
                    return Check::ok(NAME, "no rule of iptables masquerades all that pods send");
                }
                let remedy = "packets between pods of different nodes must keep their addresses: except the pods' ranges (! -d)";
                Check::warning(NAME, rules.join("; "), remedy)
            }
            _ => Check::ok(
                NAME,
                "rules of iptables cannot be read here; `sluice connectivity test` tries it",
            ),
        }
    }

    fn cilium(&self) -> Check {
        const NAME: &str = "cilium";
        for socket in ["/run/cilium/cilium.sock", "/var/run/cilium/cilium.sock"] {
            if UnixStream::connect(self.path(socket)).is_ok() {
                let remedy = "two agents would fight for pods' interfaces: remove Cilium first";
                return Check::error(NAME, format!("an agent of Cilium listens on {socket}"), remedy);
            }
        }
        if self.path("/sys/class/net").join(CILIUM_HOST).exists() {
            let remedy = "left behind by Cilium, with programs and routes: `cilium-dbg post-uninstall-cleanup`, or restart the node";
            return Check::warning(NAME, format!("the interface {CILIUM_HOST} exists"), remedy);
        }
        Check::ok(NAME, "no agent of Cilium")
    }

    fn ipvs(&self) -> Check {
        const NAME: &str = "ipvs";
        if self.path("/sys/class/net").join(KUBE_IPVS).exists() {
            let remedy = "clients of NodePorts would pass for the node itself: set kube-proxy's mode to nftables, then `kube-proxy --cleanup` or restart the node";
            return Check::error(NAME, format!("the interface {KUBE_IPVS} exists"), remedy);
        }
        Check::ok(NAME, "kube-proxy does not use it")
    }
}

/// AF_XDP by trying it.
fn af_xdp() -> Check {
    const NAME: &str = "af-xdp";
    match rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Check::ok(NAME, "a socket can be opened"),
        Err(Errno::PERM) => Check::error(
            NAME,
            "no permission to open a socket",
            "run this as root: CAP_NET_RAW is needed",
        ),
        Err(error) => {
            let remedy = "packets cannot be handed over: use a kernel with CONFIG_XDP_SOCKETS";
            Check::error(NAME, error.to_string(), remedy)
        }
    }
}

/// Whether a rule in the form of iptables-save masquerades without regard to destination and mark.
fn masquerades_all(line: &str) -> bool {
    let is_limited = [" -d ", " -m mark", " -m set", " -m addrtype", " --mark", " -o "];
    line.starts_with("-A ")
        && line.contains("-j MASQUERADE")
        && line.contains(" -s ")
        && !is_limited.iter().any(|limit| line.contains(limit))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    /// A machine of files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::new(root.path().into(), "/etc/cni/net.d".into(), "/sys/fs/bpf".into());
        (root, machine)
    }

    #[test]
    fn kernel_and_file_system_are_judged_by_the_nodes_files() {
        let (_root, old) = machine(&[
            ("proc/sys/kernel/osrelease", "5.10.0-30-amd64\n"),
            ("proc/self/mounts", "bpf /sys/fs/bpf/other bpf rw 0 0\n"),
            (
                "boot/config-5.10.0-30-amd64",
                "CONFIG_BPF_SYSCALL=y\nCONFIG_VETH=m\n# CONFIG_XDP_SOCKETS is not set\n",
            ),
        ]);
        assert_eq!(old.kernel().level, Level::Error);
        assert_eq!(old.bpf_file_system().level, Level::Error);
        let options = old.kernel_options();
        assert!(
            options.level == Level::Error && options.found.contains("CONFIG_XDP_SOCKETS"),
            "{options:?}"
        );
        assert!(!options.found.contains("CONFIG_VETH"), "{options:?}");
        let (_root, new) = machine(&[
            ("proc/sys/kernel/osrelease", "6.18.1\n"),
            (
                "proc/self/mounts",
                "none / tmpfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n",
            ),
        ]);
        assert_eq!(
            (new.kernel().level, new.bpf_file_system().level),
            (Level::Ok, Level::Ok)
        );
    }

    #[test]
    fn privileges_are_named_by_what_is_missing() {
        let (_root, bare) = machine(&[
            ("proc/self/status", "CapEff:\t0000000000001000\n"),
            (
                "proc/self/limits",
                "Max locked memory         8388608              8388608              bytes\n",
            ),
        ]);
        assert_eq!(bare.capabilities().found, "missing: CAP_NET_RAW, CAP_BPF");
        assert_eq!(bare.memlock().level, Level::Error);
        let (_root, without_admin) = machine(&[("proc/self/status", "CapEff:\t000001ffffdfffff\n")]);
        let check = without_admin.capabilities();
        assert_eq!(
            (check.level, check.found.as_str()),
            (Level::Warning, "missing: CAP_SYS_ADMIN")
        );
        assert!(
            check
                .remedy
                .is_some_and(|remedy| remedy.contains("stay without policy"))
        );
        let (_root, full) = machine(&[("proc/self/status", "CapEff:\t000001ffffffffff\n")]);
        assert_eq!(
            (full.capabilities().level, full.memlock().level),
            (Level::Ok, Level::Ok)
        );
    }

    #[test]
    fn networks_that_cannot_be_chained_or_hide_addresses_are_errors() {
        let conf = |text: &str| machine(&[("etc/cni/net.d/10-net.conflist", text)]);
        let (_root, calico) = conf(r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"calico"}]}"#);
        let checks = calico.cni();
        assert!(
            checks[0].level == Level::Error && checks[0].found.contains("calico"),
            "{checks:?}"
        );
        let (_root, ptp) =
            conf(r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp","ipMasq":true}]}"#);
        let levels: Vec<_> = ptp.cni().iter().map(|check| (check.name, check.level)).collect();
        assert_eq!(
            levels,
            [
                ("cni", Level::Ok),
                ("cni-masquerading", Level::Error),
                ("mtu", Level::Ok)
            ]
        );
        let (_root, none) = machine(&[]);
        assert_eq!(none.cni()[0].level, Level::Error);
    }

    #[test]
    fn pods_with_larger_packets_than_the_uplink_are_warned_of() {
        let (_root, node) = machine(&[
            (
                "proc/net/route",
                "Iface\tDestination\tGateway\neth0\t00000000\t0101A8C0\n",
            ),
            ("sys/class/net/eth0/mtu", "1450\n"),
            (
                "etc/cni/net.d/a.conflist",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","mtu":1500}]}"#,
            ),
        ]);
        let checks = node.cni();
        let mtu = checks.last().unwrap();
        assert_eq!(
            (mtu.level, mtu.found.as_str()),
            (Level::Warning, "1500 in pods, 1450 on eth0")
        );
    }

    #[test]
    fn only_unlimited_masquerading_is_warned_of() {
        assert!(masquerades_all("-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE"));
        for limited in [
            "-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
            "-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
            "-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE",
            ":POSTROUTING ACCEPT [0:0]",
        ] {
            assert!(!masquerades_all(limited), "{limited}");
        }
    }
}
