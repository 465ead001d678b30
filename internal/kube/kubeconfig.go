package kube

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kubeconfig is what is read of the files that kubectl reads.
type kubeconfig struct {
	current  string
	contexts map[string]contextEntry
	clusters map[string]clusterEntry
	users    map[string]userEntry
}

type contextEntry struct {
	Cluster, User, Namespace string
}

type clusterEntry struct {
	Server     string `json:"server"`
	ServerName string `json:"tls-server-name"`
	Insecure   bool   `json:"insecure-skip-tls-verify"`
	CA         string `json:"certificate-authority"`
	CAData     string `json:"certificate-authority-data"`
	ProxyURL   string `json:"proxy-url"`
	dir        string // that paths are relative to
}

type userEntry struct {
	Cert         string                 `json:"client-certificate"`
	CertData     string                 `json:"client-certificate-data"`
	Key          string                 `json:"client-key"`
	KeyData      string                 `json:"client-key-data"`
	Token        string                 `json:"token"`
	TokenFile    string                 `json:"tokenFile"`
	As           string                 `json:"as"`
	AsUID        string                 `json:"as-uid"`
	AsGroups     []string               `json:"as-groups"`
	Username     string                 `json:"username"`
	Password     string                 `json:"password"`
	AuthProvider *struct{ Name string } `json:"auth-provider"`
	Exec         *execEntry             `json:"exec"`
	dir          string
}

type execEntry struct {
	APIVersion         string
	Command            string
	Args               []string
	Env                []struct{ Name, Value string }
	InstallHint        string
	ProvideClusterInfo bool
	InteractiveMode    string
}

// maxKubeconfig bounds a file, in bytes.
const maxKubeconfig = 16 << 20

// readKubeconfig reads the files of $KUBECONFIG, or ~/.kube/config. Of what several say the first counts, as kubectl has it. Without any file it is empty.
func readKubeconfig() (*kubeconfig, error) {
	k := &kubeconfig{contexts: map[string]contextEntry{}, clusters: map[string]clusterEntry{}, users: map[string]userEntry{}}
	var files []string
	if list := os.Getenv("KUBECONFIG"); list != "" {
		files = filepath.SplitList(list)
	} else if home, err := os.UserHomeDir(); err == nil {
		files = []string{filepath.Join(home, ".kube", "config")}
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		if err := k.add(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the kubeconfig %s: %w", file, err)
		}
	}
	return k, nil
}

func (k *kubeconfig) add(file string) error {
	fi, err := os.Stat(file)
	if err == nil && fi.Size() > maxKubeconfig {
		err = fmt.Errorf("it has more than %d bytes", maxKubeconfig)
	}
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc struct {
		Current  string `json:"current-context"`
		Contexts []struct {
			Name    string
			Context contextEntry
		}
		Clusters []struct {
			Name    string
			Cluster clusterEntry
		}
		Users []struct {
			Name string
			User userEntry
		}
	}
	if err := fromYAML(data, &doc); err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return err
	}
	if k.current == "" {
		k.current = doc.Current
	}
	for _, c := range doc.Contexts {
		first(k.contexts, c.Name, c.Context)
	}
	for _, c := range doc.Clusters {
		c.Cluster.dir = dir
		first(k.clusters, c.Name, c.Cluster)
	}
	for _, u := range doc.Users {
		u.User.dir = dir
		first(k.users, u.Name, u.User)
	}
	return nil
}

func first[T any](m map[string]T, name string, value T) {
	if _, ok := m[name]; !ok {
		m[name] = value
	}
}

// access is how a cluster is reached, and by whom.
type access struct {
	context, namespace string
	cluster            clusterEntry
	user               userEntry
}

// access finds a context; "" is the current one.
func (k *kubeconfig) access(name string) (*access, error) {
	if name == "" {
		name = k.current
	}
	if name == "" {
		return nil, errors.New("the kubeconfig has no current context: say kubernetes://CONTEXT")
	}
	c, ok := k.contexts[name]
	if !ok {
		return nil, fmt.Errorf("the kubeconfig has no context %q, but %q", name, slices.Sorted(maps.Keys(k.contexts)))
	}
	a := &access{context: name, namespace: c.Namespace}
	if a.cluster, ok = k.clusters[c.Cluster]; !ok || a.cluster.Server == "" {
		return nil, fmt.Errorf("the kubeconfig has no cluster %q, of the context %q", c.Cluster, name)
	}
	if a.user, ok = k.users[c.User]; !ok && c.User != "" {
		return nil, fmt.Errorf("the kubeconfig has no user %q, of the context %q", c.User, name)
	}
	if a.user.AuthProvider != nil {
		return nil, fmt.Errorf("the kubeconfig's user %q has an auth-provider (%s), which Kubernetes itself has removed: use its exec plugin", c.User, a.user.AuthProvider.Name)
	}
	return a, nil
}

// serviceAccount is where a pod has the account that it runs by.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// podAccess is the access of the pod that this process runs in; nil: it runs in none.
func podAccess(dir string) (*access, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, nil
	}
	token := filepath.Join(dir, "token")
	if _, err := os.Stat(token); err != nil {
		return nil, fmt.Errorf("this pod has no service account: %w", err)
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("reading the pod's namespace: %w", err)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return &access{
		namespace: strings.TrimSpace(string(namespace)),
		cluster:   clusterEntry{Server: "https://" + host + ":" + port, CA: filepath.Join(dir, "ca.crt")},
		user:      userEntry{TokenFile: token},
	}, nil
}

// content is what a field has by itself, in base64, or in a file; nil: it is not there.
func content(data, file, dir string) ([]byte, error) {
	switch {
	case data != "":
		return base64.StdEncoding.DecodeString(data)
	case file == "":
		return nil, nil
	case !filepath.IsAbs(file):
		file = filepath.Join(dir, file)
	}
	return os.ReadFile(file)
}
