//go:build !linux

package commit

// FileSystem returns that the platform has no syncfs.
func FileSystem(string) (sync func() error, release func() error, supported bool, err error) {
	return nil, nil, false, nil
}
