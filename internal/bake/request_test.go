package bake

import (
	"reflect"
	"slices"
	"testing"

	buildx "github.com/docker/buildx/build"
)

// TestEveryOption fails when buildx has an option of builds that nobody has thought of.
func TestEveryOption(t *testing.T) {
	used := []string{
		"Inputs", "Allow", "Attests", "BuildArgs", "CacheFrom", "CacheTo", "CgroupParent", "Exports", "ExtraHosts", "Labels", "NetworkMode", "NoCache",
		"NoCacheFilter", "Platforms", "Pull", "SecretSpecs", "SSHSpecs", "ShmSize", "Tags", "Target", "Ulimits", "ResourceLimits", "Linked", "CallFunc",
		"Policy", "SourcePolicy", // refused
		"ExportsLocalPathsTemporary", // for what is asked for
		"Annotations",                // attributes of Exports
		"Session",                    // SecretSpecs and SSHSpecs
		"Ref", "GroupRef",            // slipway has its own
		"ProvenanceResponseMode", // of --metadata-file, which the command line asks for
	}
	of := reflect.TypeFor[buildx.Options]()
	for i := range of.NumField() {
		if name := of.Field(i).Name; !slices.Contains(used, name) {
			t.Errorf("buildx has an option %s of builds: use it in newBuild, or say here why not", name)
		}
	}
	inputs := []string{
		"ContextPath", "DockerfilePath", "DockerfileInline", "NamedContexts", "ContextState",
		"InStream",                                     // bake has no context on standard input
		"DockerfileMappingSrc", "DockerfileMappingDst", // names in messages
		"policy",
	}
	of = reflect.TypeFor[buildx.Inputs]()
	for i := range of.NumField() {
		if name := of.Field(i).Name; !slices.Contains(inputs, name) {
			t.Errorf("buildx has an input %s of builds: use it in setInputs, or say here why not", name)
		}
	}
}
