package docker

import (
	"net/http"
	"testing"

	"github.com/moby/moby/client"
)

// in is what a document has at some fields, one in the other; a number is a place in a list.
func in(doc any, path ...any) any {
	for _, step := range path {
		switch at := step.(type) {
		case string:
			fields, _ := doc.(map[string]any)
			doc = fields[at]
		case int:
			list, _ := doc.([]any)
			if at >= len(list) {
				return nil
			}
			doc = list[at]
		}
	}
	return doc
}

// TestContainerFields is [TestFields] of containers, volumes, networks and what takes the disk, and of what is in them.
func TestContainerFields(t *testing.T) {
	l := newContainers(t)
	id := l.create("true", func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"data:/v"} })
	all := definitions(t)
	// Left out when empty, or of Windows and swarms.
	host := []string{"Annotations", "Mounts", "StorageOpt", "Sysctls", "Tmpfs", "Init", "KernelMemory", "KernelMemoryTCP", "CpuRealtimePeriod", "CpuRealtimeRuntime", "NetworkMode"}
	sums := []string{"ActiveCount", "Reclaimable", "TotalSize"}
	for _, c := range []struct {
		path       string
		at         []any
		definition string
		without    []string
	}{
		{"/containers/" + id + "/json?size=1", nil, "ContainerInspectResponse", []string{"GraphDriver"}},
		{"/containers/" + id + "/json", []any{"State"}, "ContainerState", []string{"Health"}},
		{"/containers/" + id + "/json", []any{"HostConfig"}, "HostConfig", host},
		{"/containers/" + id + "/json", []any{"Config"}, "ContainerConfig", []string{"ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "OnBuild", "StopSignal", "StopTimeout", "Shell"}},
		{"/containers/" + id + "/json", []any{"NetworkSettings"}, "NetworkSettings", nil},
		{"/containers/" + id + "/json", []any{"NetworkSettings", "Networks", "none"}, "EndpointSettings", nil},
		{"/containers/" + id + "/json", []any{"Mounts", 0}, "MountPoint", nil},
		{"/containers/json?all=1&size=1", []any{0}, "ContainerSummary", []string{"SizeRw"}},
		{"/volumes", nil, "VolumeListResponse", nil},
		{"/volumes/data", nil, "Volume", []string{"Status", "ClusterVolume", "UsageData"}},
		{"/networks", []any{0}, "NetworkSummary", []string{"Peers"}},
		{"/networks/bridge", nil, "NetworkInspect", []string{"Peers", "Services"}},
		{"/system/df?verbose=1", []any{"ContainerUsage"}, "ContainersDiskUsage", sums},
		{"/system/df?verbose=1", []any{"VolumeUsage"}, "VolumesDiskUsage", sums},
		{"/system/df?verbose=1", []any{"VolumeUsage", "Items", 0}, "Volume", []string{"Status", "ClusterVolume"}},
		{"/system/df?verbose=1", []any{"ImageUsage"}, "ImagesDiskUsage", sums},
	} {
		doc, status := l.get(http.MethodGet, "/v1.52"+c.path)
		if status != http.StatusOK {
			t.Errorf("%s: %d", c.path, status)
		}
		sameFields(t, c.path+" "+c.definition, in(doc, c.at...), all[c.definition].Properties, c.without...)
	}
}
