package commit

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FileSystem returns a function that syncs the file system that dir is on, and
// one that releases it. Supported is false where the platform has no such call;
// the server must then sync every message by itself.
func FileSystem(dir string) (sync func() error, release func() error, supported bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, nil, true, fmt.Errorf("commit: open the data directory: %w", err)
	}
	return func() error { return unix.Syncfs(int(f.Fd())) }, f.Close, true, nil
}
