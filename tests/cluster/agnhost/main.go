// Command agnhost is the part of Kubernetes' test image of that name that network tests use: servers that say which pod
// they are, clients that say why they could not connect, and `pause`. Upstream's whole program is five times as large.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	"k8s.io/kubernetes/test/images/agnhost/dns"
	"k8s.io/kubernetes/test/images/agnhost/net"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	"k8s.io/kubernetes/test/images/agnhost/porter"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
	tcpreset "k8s.io/kubernetes/test/images/agnhost/tcp-reset"
	testwebserver "k8s.io/kubernetes/test/images/agnhost/test-webserver"
)

func main() {
	// Where the kernel has no SCTP, suites can have TCP play its part (tests/cluster/network-policy-api).
	if os.Getenv("AGNHOST_SCTP_AS_TCP") != "" {
		for i, argument := range os.Args {
			if argument == "--protocol=sctp" {
				os.Args[i] = "--protocol=tcp"
			}
		}
	}
	root := &cobra.Command{Use: "agnhost"}
	root.AddCommand(
		connect.CmdConnect,
		dns.CmdDNSSuffix, dns.CmdDNSServerList, dns.CmdEtcHosts,
		net.CmdNet,
		netexec.CmdNetexec,
		pause.CmdPause,
		porter.CmdPorter,
		servehostname.CmdServeHostname,
		tcpreset.CmdTCPReset,
		testwebserver.CmdTestWebserver,
	)
	os.Exit(cli.Run(root))
}
