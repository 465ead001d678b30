// Command agent speaks the protocol of SSH agents, for scripts: busybox has no ssh-add.
package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const usage = `usage: agent key FILE | serve SOCKET KEY | list | sign | add
key    makes a private key, prints the fingerprint of its public one
serve  is an agent with the key, in the foreground
list   prints the fingerprints that the agent of SSH_AUTH_SOCK has
sign   signs with the first key of the agent, and verifies that
add    adds a new key to the agent`

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "key":
		return makeKey(args[1])
	case len(args) == 3 && args[0] == "serve":
		return serve(args[1], args[2])
	case len(args) != 1:
		return fmt.Errorf("%s", usage)
	}
	conn, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		return err
	}
	a := agent.NewClient(conn)
	switch args[0] {
	case "list":
		return list(a)
	case "sign":
		return sign(a)
	case "add":
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		return a.Add(agent.AddedKey{PrivateKey: private})
	}
	return fmt.Errorf("%s", usage)
}

func makeKey(path string) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	fmt.Println(ssh.FingerprintSHA256(key))
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

func serve(socket, path string) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt) // which ends it also where who started it ignores that, as jobs of a shell do
	go func() {
		<-interrupted
		os.Exit(1)
	}()
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		return err
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go agent.ServeAgent(keyring, conn) //nolint:errcheck // ends with the connection
	}
}

func list(a agent.Agent) error {
	keys, err := a.List()
	for _, k := range keys {
		fmt.Println(ssh.FingerprintSHA256(k))
	}
	return err
}

func sign(a agent.Agent) error {
	keys, err := a.List()
	if err != nil || len(keys) == 0 {
		return fmt.Errorf("%d keys: %w", len(keys), err)
	}
	sig, err := a.Sign(keys[0], []byte("text"))
	if err != nil {
		return err
	}
	if err := keys[0].Verify([]byte("text"), sig); err != nil {
		return err
	}
	fmt.Println("signed")
	return nil
}
