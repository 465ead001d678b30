package docker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
)

// validate refuses what no container can have, in dockerd's words, also where it would have no effect here.
func validate(c *containertypes.Config, h *containertypes.HostConfig) error {
	for _, kv := range c.Env {
		if kv == "" || strings.HasPrefix(kv, "=") {
			return fmt.Errorf("invalid environment variable: %s", kv)
		}
	}
	if err := validateHealth(c.Healthcheck); err != nil {
		return err
	}
	if err := validateRestart(h.RestartPolicy); err != nil {
		return err
	}
	if _, empty := h.Annotations[""]; empty {
		return errors.New("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	for _, mode := range []struct {
		kind, value string
		valid       bool
	}{{"IPC", string(h.IpcMode), h.IpcMode.Valid()}, {"PID", string(h.PidMode), h.PidMode.Valid()}, {"UTS", string(h.UTSMode), h.UTSMode.Valid()}, {"cgroup namespace", string(h.CgroupnsMode), h.CgroupnsMode.Valid()}} {
		if !mode.valid {
			return fmt.Errorf("invalid %s mode: %s", mode.kind, mode.value)
		}
	}
	if h.CPUShares < 0 {
		return fmt.Errorf("invalid CPU shares (%d): value must be a positive integer", h.CPUShares)
	}
	return nil
}

// validateHealth is about what is tried to know whether a container is well.
func validateHealth(h *containertypes.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, t := range []struct {
		name string
		time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if t.Duration != 0 && t.Duration < containertypes.MinimumDuration {
			return fmt.Errorf("%s in Healthcheck cannot be less than %s", t.name, containertypes.MinimumDuration) //lint:ignore ST1005 dockerd's words
		}
	}
	if h.Retries < 0 {
		return errors.New("Retries in Healthcheck cannot be negative") //lint:ignore ST1005 dockerd's words
	}
	return nil
}

// validateRestart is about when a container is restarted.
func validateRestart(p containertypes.RestartPolicy) error {
	switch p.Name {
	case "", containertypes.RestartPolicyDisabled, containertypes.RestartPolicyAlways, containertypes.RestartPolicyUnlessStopped:
		if p.MaximumRetryCount != 0 {
			return errors.New("invalid restart policy: maximum retry count can only be used with 'on-failure'")
		}
	case containertypes.RestartPolicyOnFailure:
		if p.MaximumRetryCount < 0 {
			return errors.New("invalid restart policy: maximum retry count cannot be negative")
		}
	default:
		return fmt.Errorf("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", p.Name)
	}
	return nil
}
