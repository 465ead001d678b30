package kube

import (
	"encoding/json"

	"go.yaml.in/yaml/v3" // which is linked anyway, and starts in no time: sigs.k8s.io/yaml brings another one
)

// fromYAML decodes YAML by the rules of JSON, as Kubernetes does.
func fromYAML(data []byte, out any) error {
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return err
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(asJSON, out)
}
