package network

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const groupNSID = 28 // RTNLGRP_NSID

// waitToBeKilled is what TestNothingIsLeft starts.
func waitToBeKilled() {
	n, err := New(Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("/proc/%d/fd/%d\n", os.Getpid(), n.ns.Fd())
	select {}
}

// After kill -9 the namespace goes, and with it the interface that stays as long as it does.
func TestNothingIsLeft(t *testing.T) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, groupNSID)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := events.SetReceiveTimeout(&unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), toBeKilled+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	path, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(strings.TrimSpace(path))
	if err != nil {
		t.Fatal(err)
	}
	// With a number here, the kernel tells when it goes.
	err = netlink.SetNetNsIdByFd(int(ns.Fd()), 42)
	if cerr := ns.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		messages, _, err := events.Receive()
		if err != nil {
			t.Fatalf("waiting for the end of the namespace of a killed process: %v", err)
		}
		for _, m := range messages {
			if m.Header.Type == unix.RTM_DELNSID {
				return
			}
		}
	}
	t.Error("the namespace of a killed process is still there")
}
