//go:build unix

package app

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FreeDisk returns the bytes that this process may still write below dir.
func FreeDisk(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("app: look at the disk of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
