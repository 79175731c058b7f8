package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/seal"
)

func newSealKey(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "sealkey", Short: "The key that seals stored secrets"}, newSealKeyRotate(a))
}

func newSealKeyRotate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Put a new key into the data directory",
		Long: "Put a new key into the data directory (--data). The platform seals everything by it when it is started\n" +
			"the next time, and then forgets the old one. It may run meanwhile, by the old key. With a key of\n" +
			"your own, set POSTHORN_SEAL_KEY to the new one and POSTHORN_SEAL_KEY_OLD to the old one in all processes.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			dir, _ := a.data()
			path := filepath.Join(dir, "seal.key")
			err := seal.Rotate(path)
			if errors.Is(err, fs.ErrNotExist) {
				return usageError{err: fmt.Errorf("%s does not exist; --data says where the platform keeps its data", path)}
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s has a new key; restart the platform to have everything sealed by it\n", path)
			return nil
		},
	}
}
