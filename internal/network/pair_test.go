package network

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Without /dev/net/tun a namespace is the same for processes, for root of the host and for root of a user namespace.
func TestPair(t *testing.T) {
	if testing.Short() {
		t.Skip("long: the other tests again, in processes of their own")
	}
	if os.Getenv(toPair) != "" {
		t.Skip("this is it")
	}
	some := []string{
		"ReachesOutside", "Gateway", "Ends", "Refused", "Datagrams", "Resolvers", "ForgedPacketsDoNotReachTheLoopback", "Isolated", "Silence",
		"CloseBreaksConnections", "HostIsUnchanged", "OddPackets", "Nested",
	}
	// These make buffers of sockets that only root of the host may make.
	others := []string{"CloseDelivers", "CloseBreaksWhatWasLeftOpen", "SlowProcessGetsAll", "SocketsOfConnections", "NothingIsHeld"}
	for name, flags := range map[string]uintptr{"root": 0, "user namespace": unix.CLONE_NEWUSER} {
		t.Run(name, func(t *testing.T) {
			tests := some
			if flags == 0 {
				tests = append(others, some...)
			}
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^Test("+strings.Join(tests, "|")+")$")
			cmd.Env = slices.DeleteFunc(append(os.Environ(), toPair+"=1"), func(kv string) bool { return strings.HasPrefix(kv, inside+"=") })
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
			if flags != 0 {
				ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1 << 16}}
				cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings, cmd.SysProcAttr.GidMappingsEnableSetgroups = ids, ids, true
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
