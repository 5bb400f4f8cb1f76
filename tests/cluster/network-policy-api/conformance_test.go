// Package conformance is the conformance suite of ClusterNetworkPolicy (sigs.k8s.io/network-policy-api).
// scripts/conformance.sh --cluster-network-policy builds it and runs it against the cluster of scripts/cluster.sh.
//
// Two things differ from upstream's own main, because the suite has its images and protocols written into it: pods run the
// image of this repository's agnhost, and where the kernel has no SCTP its part is played by TCP on the same ports, in
// policies, servers and clients alike (-sctp-as-tcp). Without that the cases that mix protocols could not run at all. The four
// cases that are about SCTP alone are then left out.
package conformance

import (
	"context"
	"encoding/json"
	"flag"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	api "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/flags"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

var (
	image = flag.String("agnhost-image", "", "image to run instead of upstream's agnhost")
	// The kernel answers EPROTONOSUPPORT to a socket of a protocol that it does not have.
	sctpAsTCP = flag.Bool("sctp-as-tcp", false, "let TCP play the part of SCTP")
)

// The cases that test nothing but SCTP.
var sctpCases = []string{
	"CNPAdminTierEgressSCTP", "CNPAdminTierIngressSCTP", "CNPBaselineTierEgressSCTP", "CNPBaselineTierIngressSCTP",
}

func TestConformance(t *testing.T) {
	kubeconfig, err := config.GetConfig()
	if err != nil {
		t.Fatalf("no kubeconfig: %v", err)
	}
	inner, err := client.NewWithWatch(kubeconfig, client.Options{})
	if err != nil {
		t.Fatalf("no client: %v", err)
	}
	clientset, err := kubernetes.NewForConfig(kubeconfig)
	if err != nil {
		t.Fatalf("no client set: %v", err)
	}
	if err := api.Install(inner.Scheme()); err != nil {
		t.Fatalf("registering the kinds: %v", err)
	}
	options := suite.Options{
		Client:                     interceptor.NewClient(inner, interceptor.Funcs{Create: create, Update: update}),
		ClientSet:                  clientset,
		KubeConfig:                 *kubeconfig,
		Debug:                      *flags.ShowDebug,
		CleanupBaseResources:       *flags.CleanupBaseResources,
		SupportedFeatures:          suite.ParseSupportedFeatures(*flags.SupportedFeatures),
		ExemptFeatures:             suite.ParseSupportedFeatures(*flags.ExemptFeatures),
		EnableAllSupportedFeatures: *flags.EnableAllSupportedFeatures,
	}
	if *sctpAsTCP {
		options.SkipTests = sctpCases
	}
	conformance := suite.New(options)
	conformance.Setup(t)
	conformance.Run(t, tests.ConformanceTests)
}

func create(ctx context.Context, inner client.WithWatch, object client.Object, options ...client.CreateOption) error {
	if err := rewrite(object); err != nil {
		return err
	}
	return inner.Create(ctx, object, options...)
}

func update(ctx context.Context, inner client.WithWatch, object client.Object, options ...client.UpdateOption) error {
	if err := rewrite(object); err != nil {
		return err
	}
	return inner.Update(ctx, object, options...)
}

// rewrite makes an object of the suite's manifests fit this cluster.
func rewrite(object client.Object) error {
	manifest, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	switch manifest.GetKind() {
	case "StatefulSet":
		return rewriteContainers(manifest)
	case "ClusterNetworkPolicy", "NetworkPolicy":
		if *sctpAsTCP {
			return rewriteProtocols(manifest)
		}
	}
	return nil
}

func rewriteContainers(manifest *unstructured.Unstructured) error {
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(manifest.Object, path...)
	if err != nil {
		return err
	}
	for _, entry := range containers {
		container, ok := entry.(map[string]any)
		if !ok {
			continue
		}
		if *image != "" {
			container["image"] = *image
			container["imagePullPolicy"] = "IfNotPresent"
			// The image has no bash.
			if command, _, _ := unstructured.NestedStringSlice(container, "command"); len(command) == 3 {
				var words []any
				for _, word := range strings.Fields(command[2]) {
					words = append(words, word)
				}
				container["command"] = words
			}
		}
		if *sctpAsTCP {
			environment, _, _ := unstructured.NestedSlice(container, "env")
			for _, entry := range environment {
				if variable, ok := entry.(map[string]any); ok {
					if name, ok := variable["name"].(string); ok {
						variable["name"] = strings.Replace(name, "SERVE_SCTP_PORT_", "SERVE_PORT_", 1)
					}
				}
			}
			container["env"] = append(environment, map[string]any{"name": "AGNHOST_SCTP_AS_TCP", "value": "1"})
		}
	}
	return unstructured.SetNestedSlice(manifest.Object, containers, path...)
}

func rewriteProtocols(manifest *unstructured.Unstructured) error {
	text, err := json.Marshal(manifest.Object["spec"])
	if err != nil {
		return err
	}
	changed := strings.NewReplacer(`"sctp":`, `"tcp":`, `"SCTP"`, `"TCP"`).Replace(string(text))
	var spec map[string]any
	if err := json.Unmarshal([]byte(changed), &spec); err != nil {
		return err
	}
	manifest.Object["spec"] = spec
	return nil
}
