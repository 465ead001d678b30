package manifestlist

import (
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotation is what is said of an image's platform in a list. What is empty changes nothing.
type Annotation struct {
	OS, Architecture, Variant, OSVersion string
	OSFeatures                           []string
}

// platformsOfGo are pairs of operating system and architecture that Go knows: docker's list, and two that are newer.
const platformsOfGo = " darwin/386 darwin/amd64 darwin/arm darwin/arm64 dragonfly/amd64 freebsd/386 freebsd/amd64 freebsd/arm" +
	" linux/386 linux/amd64 linux/arm linux/arm64 linux/ppc64le linux/mips64 linux/mips64le linux/riscv64 linux/s390x" +
	" netbsd/386 netbsd/amd64 netbsd/arm openbsd/386 openbsd/amd64 openbsd/arm plan9/386 plan9/amd64 solaris/amd64" +
	" windows/386 windows/amd64 linux/loong64 windows/arm64 "

// Annotate changes the platform of an image.
func (i *Image) Annotate(a Annotation) error {
	p := ocispec.Platform{}
	if i.Descriptor.Platform != nil {
		p = *i.Descriptor.Platform
	}
	for value, field := range map[*string]*string{&a.OS: &p.OS, &a.Architecture: &p.Architecture, &a.Variant: &p.Variant, &a.OSVersion: &p.OSVersion} {
		if *value != "" {
			*field = *value
		}
	}
	p.OSFeatures = slices.Clone(p.OSFeatures)
	for _, feature := range a.OSFeatures {
		if !slices.Contains(p.OSFeatures, feature) {
			p.OSFeatures = append(p.OSFeatures, feature)
		}
	}
	if pair := p.OS + "/" + p.Architecture; strings.Contains(pair, " ") || !strings.Contains(platformsOfGo, " "+pair+" ") {
		return fmt.Errorf("manifest entry for image has unsupported os/arch combination: %s", pair)
	}
	i.Descriptor.Platform = &p
	return nil
}
