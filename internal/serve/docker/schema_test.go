package docker

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is a part of the API's own description.
type schema struct {
	Ref                  string `json:"$ref"`
	AllOf                []*schema
	Properties           map[string]*schema
	Items                *schema
	AdditionalProperties any
}

// description is the API's own.
type description struct {
	Definitions map[string]*schema
	Paths       map[string]map[string]struct {
		Responses map[string]struct{ Schema *schema }
	}
}

func readDescription(t *testing.T) (d description) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	must(t, err)
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	must(t, err)
	must(t, yaml.Unmarshal(data, &d))
	return d
}

// resolve follows a reference, and gives what it names.
func (d *description) resolve(s *schema) (*schema, string) {
	if name, ok := strings.CutPrefix(s.Ref, "#/definitions/"); ok {
		return d.Definitions[name], name
	}
	return s, ""
}

// fields are those of an object, with those that it has of others.
func (d *description) fields(s *schema) map[string]*schema {
	all := maps.Clone(s.Properties)
	if all == nil {
		all = map[string]*schema{}
	}
	for _, part := range s.AllOf {
		of, _ := d.resolve(part)
		maps.Copy(all, d.fields(of))
	}
	return all
}

// compare gives each field that a document lacks, or has beside those of a schema, as the name of the definition and its own.
func (d *description) compare(doc any, s *schema, name string, lacks, beside map[string]bool) {
	s, defined := d.resolve(s)
	if defined != "" {
		name = defined
	}
	switch doc := doc.(type) {
	case []any:
		for _, one := range doc {
			if s.Items != nil {
				d.compare(one, s.Items, name, lacks, beside)
			}
		}
	case map[string]any:
		known := d.fields(s)
		if len(known) == 0 { // a map
			if data, err := json.Marshal(s.AdditionalProperties); err == nil {
				var value schema
				if json.Unmarshal(data, &value) == nil {
					for _, one := range doc {
						d.compare(one, &value, name, lacks, beside)
					}
				}
			}
			return
		}
		for field, of := range known {
			value, ok := doc[field]
			if !ok {
				lacks[name+"."+field] = true
				continue
			}
			d.compare(value, of, name+"."+field, lacks, beside)
		}
		for field := range doc {
			if known[field] == nil {
				beside[name+"."+field] = true
			}
		}
	}
}

// leftOut are fields that some document lacks, by why it does.
var leftOut = map[string]string{
	"dockerd leaves out what is empty": "AuthResponse.IdentityToken BuildCacheDiskUsage.ActiveCount BuildCacheDiskUsage.Items BuildCacheDiskUsage.Reclaimable BuildCacheDiskUsage.TotalCount BuildCacheDiskUsage.TotalSize " +
		"ContainerConfig.ExposedPorts ContainerConfig.Healthcheck ContainerConfig.NetworkDisabled ContainerConfig.OnBuild ContainerConfig.Shell ContainerConfig.StopSignal ContainerConfig.StopTimeout " +
		"ContainerSummary.HostConfig.Annotations ContainerWaitResponse.Error ContainersDiskUsage.ActiveCount ContainersDiskUsage.Reclaimable ContainersDiskUsage.TotalSize HostConfig.Annotations HostConfig.Init HostConfig.Mounts " +
		"HostConfig.StorageOpt HostConfig.Sysctls HostConfig.Tmpfs ImageConfig.Entrypoint ImageConfig.ExposedPorts ImageConfig.Healthcheck ImageConfig.Labels ImageConfig.OnBuild ImageConfig.Shell ImageConfig.StopSignal " +
		"ImageConfig.User ImageConfig.Volumes ImageConfig.WorkingDir ImageDeleteResponseItem.Deleted ImageDeleteResponseItem.Untagged ImageInspect.Author ImageInspect.Comment ImageInspect.Variant " +
		"ImageManifestSummary.AttestationData ImagesDiskUsage.Reclaimable OCIDescriptor.annotations OCIDescriptor.artifactType OCIDescriptor.data OCIDescriptor.platform OCIDescriptor.urls OCIPlatform.variant ProcessConfig.user " +
		"SystemVersion.Experimental VolumesDiskUsage.ActiveCount VolumesDiskUsage.Reclaimable VolumesDiskUsage.TotalSize",
	"nobody asked for it":          "ContainerInspectResponse.SizeRootFs ContainerInspectResponse.SizeRw ContainerSummary.SizeRootFs ContainerSummary.SizeRw ImageSummary.Manifests Volume.UsageData",
	"it came after 1.52":           "ImageInspect.Identity ImageManifestSummary.ImageData.Identity SystemInfo.NRI",
	"it is of clients before 1.52": "ContainerInspectResponse.GraphDriver ImageInspect.GraphDriver",
	"it is of swarms and plugins":  "NetworkInspect.Peers NetworkInspect.Services NetworkSummary.Peers SwarmInfo.Cluster SwarmInfo.Managers SwarmInfo.Nodes SystemInfo.ProductLicense Volume.ClusterVolume Volume.Status",
	"it is of Windows and cgroups 1": "ContainerCPUUsage.percpu_usage ContainerConfig.ArgsEscaped ContainerMemoryStats.commitbytes ContainerMemoryStats.commitpeakbytes ContainerMemoryStats.max_usage ContainerMemoryStats.privateworkingset " +
		"ContainerStorageStats.read_count_normalized ContainerStorageStats.read_size_bytes ContainerStorageStats.write_count_normalized ContainerStorageStats.write_size_bytes ImageConfig.ArgsEscaped ImageInspect.OsVersion " +
		"OCIPlatform.os.features OCIPlatform.os.version",
	"there is nothing of it here": "ContainerMemoryStats.failcnt ContainerMemoryStats.stats ContainerPidsStats.limit ContainerState.Health ContainerStatsResponse.networks IPAMStatus.Subnets Runtime.path Runtime.runtimeArgs Runtime.status " +
		"SystemInfo.Containerd SystemInfo.DefaultAddressPools SystemInfo.DiscoveredDevices SystemInfo.FirewallBackend SystemVersion.BuildTime SystemVersion.Components.Details SystemVersion.GitCommit",
}

// TestZeroFields: the documents of [TestZeroValues] have all fields of the API's own description, but for [leftOut], and no others.
func TestZeroFields(t *testing.T) {
	d := readDescription(t)
	lacks, beside := map[string]bool{}, map[string]bool{}
	for file, answers := range map[string]string{
		"containers": "get /containers/json", "created": "post /containers/create", "container-ended": "get /containers/{id}/json", "container": "get /containers/{id}/json", "container-size": "get /containers/{id}/json", "top": "get /containers/{id}/top",
		"stats": "get /containers/{id}/stats", "waited": "post /containers/{id}/wait", "prune-containers": "post /containers/prune", "images": "get /images/json", "prune-builds": "post /build/prune",
		"image-manifests": "get /images/{name}/json", "history": "get /images/{name}/history", "image-removed-named": "delete /images/{name}", "prune-images": "post /images/prune", "auth": "post /auth",
		"info": "get /info", "version": "get /version", "committed": "post /commit", "df-verbose": "get /system/df", "exec-created": "post /containers/{id}/exec", "exec": "get /exec/{id}/json",
		"volumes": "get /volumes", "volume": "post /volumes/create", "prune-volumes": "post /volumes/prune", "networks": "get /networks", "network": "get /networks/{id}", "network-created": "post /networks/create",
		"prune-networks": "post /networks/prune", "distribution": "get /distribution/{name}/json", "error": "error", "events": "event",
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "zero", file+".json"))
		must(t, err)
		var doc any
		must(t, json.Unmarshal(data, &doc))
		s := d.Definitions[map[string]string{"error": "ErrorResponse", "event": "EventMessage"}[answers]]
		if answers == "event" {
			doc = slices.Collect(maps.Values(doc.(map[string]any)))
			s = &schema{Items: s}
		}
		if method, path, ok := strings.Cut(answers, " "); ok {
			responses := d.Paths[path][method].Responses
			if s = responses["200"].Schema; s == nil {
				s = responses["201"].Schema
			}
		}
		if s == nil {
			t.Fatalf("there is no description of %s", answers)
		}
		d.compare(doc, s, answers, lacks, beside)
	}
	var without []string
	for _, names := range leftOut {
		without = append(without, strings.Fields(names)...)
	}
	slices.Sort(without)
	if got := slices.Sorted(maps.Keys(lacks)); !slices.Equal(got, without) {
		t.Errorf("left out are\n%s\nnot\n%s", strings.Join(got, " "), strings.Join(without, " "))
	}
	if len(beside) > 0 {
		t.Errorf("the description has no %s", strings.Join(slices.Sorted(maps.Keys(beside)), " "))
	}
}
