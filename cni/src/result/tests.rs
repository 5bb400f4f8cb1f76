use super::*;

/// `ptp` with `host-local`, specification 1.0.0.
const PTP: &str = r#"{
  "cniVersion": "1.0.0",
  "interfaces": [
    {"name": "veth6f1a2b3c", "mac": "5e:11:22:33:44:55"},
    {"name": "eth0", "mac": "0a:58:0a:f4:00:07", "sandbox": "/var/run/netns/cni-1"}
  ],
  "ips": [{"interface": 1, "address": "10.244.0.7/24", "gateway": "10.244.0.1"}],
  "routes": [{"dst": "0.0.0.0/0"}],
  "dns": {}
}"#;

/// `bridge`, then `portmap`, which passes on what it gets; specification 0.4.0.
const BRIDGE: &str = r#"{
  "cniVersion": "0.4.0",
  "interfaces": [
    {"name": "cni0", "mac": "ee:00:00:00:00:01"},
    {"name": "vethb1946ac9", "mac": "ee:00:00:00:00:02"},
    {"name": "eth0", "mac": "0a:58:0a:16:00:09", "sandbox": "/proc/4242/ns/net"}
  ],
  "ips": [
    {"version": "4", "interface": 0, "address": "10.22.0.1/16"},
    {"version": "4", "interface": 2, "address": "10.22.0.9/16", "gateway": "10.22.0.1"}
  ],
  "routes": [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}],
  "dns": {}
}"#;

/// `ptp` with two ranges, specification 1.1.0.
const DUAL_STACK: &str = r#"{
  "cniVersion": "1.1.0",
  "interfaces": [
    {"name": "veth0a", "mac": "5e:11:22:33:44:55", "mtu": 1500},
    {"name": "eth0", "mac": "0a:58:0a:f4:00:07", "mtu": 1500, "sandbox": "/run/netns/p"}
  ],
  "ips": [
    {"interface": 1, "address": "10.244.0.7/24", "gateway": "10.244.0.1"},
    {"interface": 1, "address": "fd00:10:244::7/64", "gateway": "fd00:10:244::1"}
  ],
  "dns": {}
}"#;

#[test]
fn results_of_real_plugins_tell_the_containers_interface() {
    let cases = [
        (
            PTP,
            "/var/run/netns/cni-1",
            "0a:58:0a:f4:00:07",
            Some("10.244.0.7"),
            None,
        ),
        (
            BRIDGE,
            "/proc/4242/ns/net",
            "0a:58:0a:16:00:09",
            Some("10.22.0.9"),
            None,
        ),
        (
            DUAL_STACK,
            "/run/netns/p",
            "0a:58:0a:f4:00:07",
            Some("10.244.0.7"),
            Some("fd00:10:244::7"),
        ),
    ];
    for (text, netns, mac, ipv4, ipv6) in cases {
        let result: CniResult = serde_json::from_str(text).unwrap();
        let expected = ContainerInterface {
            mac: mac.into(),
            netns: netns.into(),
            ipv4: ipv4.map(|addr| addr.parse().unwrap()),
            ipv6: ipv6.map(|addr| addr.parse().unwrap()),
        };
        assert_eq!(result.container_interface("eth0"), Ok(expected), "{text}");
    }
}

#[test]
fn what_does_not_tell_enough_is_refused_with_the_field() {
    let cases = [
        ("{}", "interfaces: none is `eth0` in a container"),
        (
            r#"{"interfaces":[{"name":"eth0"}],"ips":[{"interface":0,"address":"10.0.0.1/8"}]}"#,
            "interfaces: none is `eth0` in a container",
        ),
        (
            r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}]}"#,
            "ips: none belongs to `eth0`",
        ),
        // An address that does not say whose it is may be anybody's.
        (
            r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.1/8"}]}"#,
            "ips: none belongs to `eth0`",
        ),
        (
            r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}],
                "ips":[{"interface":0,"address":"10.0.0.1/8"},{"interface":0,"address":"10.0.0.2/8"}]}"#,
            "ips: `eth0` has more than one IPv4 address",
        ),
        (
            r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.0.0.1"}]}"#,
            "ips[0].address: `10.0.0.1` is not an address with the length of its prefix",
        ),
        (
            r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.0.0.1/33"}]}"#,
            "ips[0].address: `10.0.0.1/33` is not an address with the length of its prefix",
        ),
    ];
    for (text, message) in cases {
        let result: CniResult = serde_json::from_str(text).unwrap();
        assert_eq!(
            result.container_interface("eth0").unwrap_err().to_string(),
            message
        );
    }
}
