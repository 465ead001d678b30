package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/kube"
)

// What buildx says to its driver kubernetes. A builder of that driver is a place for builds: whoever builds by its name builds there, as with --on, and
// no pods are kept for it.

// clusterOptions are the options of the driver, as buildx has them, in the forms that the pods of a build take.
type clusterOptions struct {
	image, namespace string
	replicas         int           // how many Jobs a build may have at the same time
	timeout          time.Duration // how long a pod may take to start
	load             bool          // the result of a build that says nothing else comes home
	pod              kube.Overlay
}

// readClusterOptions reads options of the driver. What cannot be held is an error.
func readClusterOptions(values map[string]string) (*clusterOptions, error) {
	o := &clusterOptions{pod: kube.NewOverlay()}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := o.set(key, values[key]); err != nil {
			return nil, fmt.Errorf("--driver-opt %s=%s: %w", key, values[key], err)
		}
	}
	return o, nil
}

func (o *clusterOptions) set(key, value string) (err error) {
	switch key {
	case "image":
		o.image = value
	case "namespace":
		o.namespace = value
	case "replicas":
		if o.replicas, err = strconv.Atoi(value); err == nil && o.replicas < 1 {
			err = errors.New("want one or more")
		}
	case "timeout":
		if o.timeout, err = time.ParseDuration(value); err == nil && o.timeout <= 0 {
			err = errors.New("want a time to wait")
		}
	case "default-load":
		o.load, err = strconv.ParseBool(value)
	case "rootless": // pods have as few rights as their namespace admits in any case
		_, err = strconv.ParseBool(value)
	case "loadbalance": // each build has pods of its own
		if value != "sticky" && value != "random" {
			err = errors.New(`want "sticky" or "random"`)
		}
	case "qemu.install":
		var install bool
		if install, err = strconv.ParseBool(value); install {
			err = errors.New("each platform is built on nodes of its architecture, without emulation: leave it out")
		}
	case "qemu.image": // for qemu.install
	case "persistent-volume-claim.requests.storage":
		err = errors.New("pods keep nothing: results are in the repository of the cache (docs/kubernetes.md); leave it out")
	default:
		return o.setPod(key, value)
	}
	return err
}

// setPod sets what an option says of the pod.
func (o *clusterOptions) setPod(key, value string) error {
	which, resource, _ := strings.Cut(key, ".")
	spec, container := o.pod.Spec, o.pod.Container
	switch {
	case (which == "requests" || which == "limits") && slices.Contains([]string{"cpu", "memory", "ephemeral-storage"}, resource):
		kube.Child(container, "resources", which)[resource] = value
	case which == "env" && resource != "":
		o.addEnv(resource, value)
	case key == "schedulername":
		spec["schedulerName"] = value
	case key == "serviceaccount": // whose token no step finds
		spec["serviceAccountName"], spec["automountServiceAccountToken"] = value, false
	case key == "nodeselector":
		return keyValuePairs(kube.Child(spec, "nodeSelector"), value)
	case key == "labels" || key == "annotations":
		return keyValuePairs(kube.Child(o.pod.Metadata, key), value)
	case key == "tolerations":
		all, err := tolerations(value)
		spec["tolerations"] = all
		return err
	case key == "buildkit-root-volume-memory":
		spec["volumes"] = []any{map[string]any{"name": "slipway-memory", "emptyDir": map[string]any{"medium": "Memory", "sizeLimit": value}}}
		container["volumeMounts"] = []any{map[string]any{"name": "slipway-memory", "mountPath": kube.StoreDir}}
		o.addEnv("SLIPWAY_ROOT", kube.StoreDir+"/slipway")
	default:
		return errors.New("invalid driver option for driver kubernetes")
	}
	return nil
}

func (o *clusterOptions) addEnv(name, value string) {
	env, _ := o.pod.Container["env"].([]any)
	o.pod.Container["env"] = append(env, map[string]any{"name": name, "value": kube.Literal(value)})
}

// keyValuePairs reads KEY=VALUE,KEY=VALUE.
func keyValuePairs(into map[string]any, text string) error {
	for _, pair := range strings.Split(strings.Trim(text, `"`), ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" || strings.Contains(value, "=") {
			return fmt.Errorf("invalid key-value pair %q", pair)
		}
		into[key] = value
	}
	return nil
}

// tolerations reads key=KEY,operator=OP,value=V,effect=E,tolerationSeconds=N, several of them with semicolons between.
func tolerations(text string) (all []any, err error) {
	for _, one := range strings.Split(strings.Trim(text, `"`), ";") {
		fields, t := map[string]any{}, map[string]any{}
		if err := keyValuePairs(fields, one); err != nil {
			return nil, err
		}
		for key, value := range fields {
			switch key {
			case "key", "operator", "value", "effect":
				t[key] = value
			case "tolerationSeconds":
				seconds, err := strconv.ParseInt(value.(string), 10, 64)
				if err != nil {
					return nil, err
				}
				t[key] = seconds
			default:
				return nil, fmt.Errorf("invalid toleration %q", one)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// clusterPlace is where the builds of a builder of a cluster are carried out. The context is noted by its name, so that whoever uses another kubeconfig
// later does not build in another cluster.
func clusterPlace(endpoint, namespace string) (string, error) {
	c, err := kube.Open(endpoint)
	if err != nil {
		return "", err
	}
	if namespace != "" {
		c.Namespace = namespace
	}
	return kube.Scheme + "://" + c.Context + "/" + c.Namespace, nil
}

// cluster makes a builder that of a cluster, of what was said by --driver-opt. What nothing is said of stays as the old one has it, options as a whole.
func (o *createFlags) cluster(b *builders.Builder, endpoint string, old *builders.Builder) error {
	switch {
	case o.config != "":
		return errors.New("--buildkitd-config and --driver kubernetes: settings of registries are those of the image that the pods run (--driver-opt image)")
	case endpoint != "" && !strings.HasPrefix(endpoint, kube.Scheme+"://"):
		return fmt.Errorf("kubernetes driver does not support the endpoint %q: want none, for the kubeconfig's context, or kubernetes://CONTEXT/NAMESPACE", endpoint)
	}
	values, err := optionPairs(o.driverOpts)
	if err != nil {
		return err
	}
	opts, err := readClusterOptions(values)
	if err != nil {
		return err
	}
	b.DriverOpts = values
	if old != nil && old.Driver == kube.Scheme {
		if values == nil {
			b.DriverOpts = old.DriverOpts
		}
		if endpoint == "" {
			endpoint = old.Endpoint
		}
	}
	b.Endpoint, err = clusterPlace(cmp.Or(endpoint, kube.Scheme), opts.namespace)
	return err
}

// bootCluster sees that the pods of a builder's builds are admitted.
func (a *app) bootCluster(ctx context.Context, b builders.Builder) error {
	o, flags := &onFlags{}, pflag.NewFlagSet("", pflag.ContinueOnError)
	o.add(flags)
	if a.settings != nil {
		if err := set(flags, &a.settings.Build); err != nil {
			return err
		}
	}
	if err := o.inCluster(b, nil); err != nil {
		return err
	}
	c, err := kube.Open(o.on)
	if err != nil {
		return err
	}
	admitted, err := c.Admit(ctx, &kube.Spec{Image: o.onImage, Overlay: o.overlay})
	if err == nil {
		fmt.Fprintln(a.stderr, admitted.Tells)
	}
	return err
}

// takeBuilder is checkBuilder for builds, which a builder of a cluster carries out.
func (a *app) takeBuilder(o *onFlags, flags *pflag.FlagSet) error {
	b, err := a.useBuilder()
	switch {
	case err == nil && o.on != "" && flags.Changed("builder"):
		return errors.New("--builder and --on: each of them says where to build")
	case err == nil && o.on == "" && b.Driver == kube.Scheme && isBuild(flags): // other calls need no cluster
		return o.inCluster(b, flags)
	}
	return a.checkBuilder()
}

// checkHere refuses a builder of a cluster for what concerns the store of a machine.
func (a *app) checkHere(instead string) error {
	if b, err := a.useBuilder(); err == nil && b.Driver == kube.Scheme {
		return fmt.Errorf("builder %s is in a cluster, where no machine keeps anything: %s, or name a builder of this machine by --builder default", b.Name, instead)
	}
	return a.checkBuilder()
}

// inCluster has builds be carried out where a builder is, as --on and its flags do. A flag of the command's says more than the builder; nil is a command without flags.
func (o *onFlags) inCluster(b builders.Builder, flags *pflag.FlagSet) error {
	opts, err := readClusterOptions(b.DriverOpts)
	if err != nil {
		return fmt.Errorf("builder %s: %w", b.Name, err)
	}
	given := func(name string) bool { return flags != nil && flags.Changed(name) }
	o.on = b.Endpoint
	if opts.image != "" && !given("on-image") {
		o.onImage = opts.image
	}
	if opts.replicas > 1 && !given("workers") {
		o.workers = opts.replicas
	}
	if opts.timeout > 0 && !given("on-wait") {
		o.onWait = opts.timeout
	}
	o.builder, o.overlay, o.defaultLoad = &b, opts.pod, opts.load
	return nil
}

// loadByDefault has the result come home that nothing else is said of, where a builder has the option default-load.
func (o *buildFlags) loadByDefault() {
	off, _ := strconv.ParseBool(os.Getenv("BUILDX_NO_DEFAULT_LOAD"))
	o.load = o.load || o.defaultLoad && !off && !o.push && len(o.outputs) == 0 && len(o.tags) > 0
}

// isBuild reports whether a command builds, and does not ask by --call.
func isBuild(flags *pflag.FlagSet) bool {
	call := flags.Lookup("call").Value.String()
	return call == "" || strings.HasPrefix(call, "build")
}
