package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// tokenLife is for how long a token of a file is used before it is read again: kubelets put new ones there.
const tokenLife = time.Minute

// pluginLife is for how long the credentials of a plugin are used that does not say how long they hold.
const pluginLife = 5 * time.Minute

// transport makes the client of a cluster.
func (a *access) transport() (http.RoundTripper, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: a.cluster.Insecure, ServerName: a.cluster.ServerName}
	ca, err := content(a.cluster.CAData, a.cluster.CA, a.cluster.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the CA of the cluster: %w", err)
	}
	if ca != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the CA of the cluster is no certificate")
		}
	}
	who := &identity{user: a.user}
	conf.GetClientCertificate = who.certificate
	proxy := http.ProxyFromEnvironment
	if a.cluster.ProxyURL != "" {
		u, err := url.Parse(a.cluster.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("reading the proxy of the cluster: %w", err)
		}
		proxy = http.ProxyURL(u)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	who.next = &http.Transport{
		Proxy: proxy, DialContext: dialer.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}, // a connection that died is noticed
	}
	return who, nil
}

// identity says in requests whose they are.
type identity struct {
	user userEntry
	next http.RoundTripper

	mu    sync.Mutex
	token string
	cert  *tls.Certificate
	until time.Time // when token and cert are to be had anew
}

// RoundTrip implements http.RoundTripper.
func (i *identity) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := i.try(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && i.user.Exec != nil && req.GetBody != nil { // what a plugin gave holds no longer
		resp.Body.Close()
		i.mu.Lock()
		i.until = time.Time{}
		i.mu.Unlock()
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
		return i.try(req)
	}
	return resp, err
}

func (i *identity) try(req *http.Request) (*http.Response, error) {
	token, _, err := i.current(req.Context())
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	switch {
	case token != "":
		req.Header.Set("Authorization", "Bearer "+token)
	case i.user.Username != "":
		req.SetBasicAuth(i.user.Username, i.user.Password)
	}
	if i.user.As != "" {
		req.Header.Set("Impersonate-User", i.user.As)
		req.Header["Impersonate-Group"] = i.user.AsGroups
		if i.user.AsUID != "" {
			req.Header.Set("Impersonate-Uid", i.user.AsUID)
		}
	}
	return i.next.RoundTrip(req)
}

// certificate is what a server is shown that asks for one.
func (i *identity) certificate(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	_, cert, err := i.current(r.Context())
	if cert == nil {
		cert = &tls.Certificate{}
	}
	return cert, err
}

// current are the credentials as they hold now.
func (i *identity) current(ctx context.Context) (token string, cert *tls.Certificate, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Now().Before(i.until) {
		return i.token, i.cert, nil
	}
	if i.user.Exec != nil {
		err = i.plugin(ctx)
	} else {
		err = i.files()
	}
	return i.token, i.cert, err
}

// files reads the credentials that the kubeconfig has or names.
func (i *identity) files() error {
	u := &i.user
	i.token, i.until = u.Token, time.Now().Add(tokenLife)
	if u.TokenFile != "" {
		text, err := content("", u.TokenFile, u.dir)
		if err != nil {
			return fmt.Errorf("reading the token: %w", err)
		}
		i.token = strings.TrimSpace(string(text))
	}
	cert, err := content(u.CertData, u.Cert, u.dir)
	key, err2 := content(u.KeyData, u.Key, u.dir)
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("reading the user's certificate: %w", err)
	}
	if cert == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("reading the user's certificate: %w", err)
	}
	i.cert = &pair
	return nil
}

// plugin asks the program of the kubeconfig for credentials (client.authentication.k8s.io).
func (i *identity) plugin(ctx context.Context) error {
	e := i.user.Exec
	command := e.Command
	if strings.ContainsRune(command, filepath.Separator) && !filepath.IsAbs(command) {
		command = filepath.Join(i.user.dir, command)
	}
	info, err := json.Marshal(dict{"apiVersion": e.APIVersion, "kind": "ExecCredential", "spec": dict{"interactive": false}})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, command, e.Args...)
	cmd.Env = append(os.Environ(), "KUBERNETES_EXEC_INFO="+string(info))
	for _, v := range e.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("the kubeconfig's plugin %s: %w: %s", e.Command, err, oneSentence(said.String()+" "+e.InstallHint))
	}
	var answer struct {
		Status struct {
			Expires time.Time `json:"expirationTimestamp"`
			Token   string    `json:"token"`
			Cert    string    `json:"clientCertificateData"`
			Key     string    `json:"clientKeyData"`
		} `json:"status"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("the kubeconfig's plugin %s: decoding its answer: %w", e.Command, err)
	}
	i.token, i.cert = answer.Status.Token, nil
	if answer.Status.Cert != "" {
		pair, err := tls.X509KeyPair([]byte(answer.Status.Cert), []byte(answer.Status.Key))
		if err != nil {
			return fmt.Errorf("the kubeconfig's plugin %s: %w", e.Command, err)
		}
		i.cert = &pair
	}
	if i.token == "" && i.cert == nil {
		return fmt.Errorf("the kubeconfig's plugin %s gives neither a token nor a certificate", e.Command)
	}
	if i.until = answer.Status.Expires; i.until.IsZero() {
		i.until = time.Now().Add(pluginLife)
	}
	return nil
}
