//go:build !unix

package app

// FreeDisk cannot tell on this platform; the default budget holds.
func FreeDisk(string) (int64, error) { return 64 << 30, nil }
