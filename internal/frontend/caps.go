package frontend

import (
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
)

// lacking are the capabilities of BuildKit that this engine has not, with what it has instead or why not. Clients ask before they
// use one, so that one that is not told of is a clear message, and one that is told of by mistake fails in the middle of a build.
// But devices (exec.meta.cdi) are told of: docker/dockerfile would leave them out without a word, and steps that want them are
// refused before anything runs.
var lacking = map[apicaps.CapID]string{
	pb.CapRemoteCacheAzBlob:       "there is no such cache",
	pb.CapSourceGitBundle:         "repositories come from servers",
	pb.CapSourceGitCheckoutBundle: "repositories come from servers",
	pb.CapBuildOpLLBFileName:      "definitions that steps make are for a client of the gateway to solve",
	pb.CapExecMetaNetworkProxy:    "a step has a network of its own, none, or the host's",
	pb.CapSessionExporter:         "exporters are those that are built in",
}

// capsOf are those of all capabilities that this engine has.
func capsOf(list *apicaps.CapList) apicaps.CapSet {
	var had []*apicaps.PBCap
	for _, c := range list.All() {
		if _, not := lacking[apicaps.CapID(c.ID)]; !not {
			had = append(had, c)
		}
	}
	return list.CapSet(had)
}

func llbCaps() apicaps.CapSet     { return capsOf(&pb.Caps) }
func gatewayCaps() apicaps.CapSet { return capsOf(&gwpb.Caps) }
