package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newConfig(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Show or check the settings that serve would use"},
		newConfigPrint(a), newConfigValidate(a))
}

func newConfigPrint(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show all settings as flags, environment, file and defaults make them, secrets masked",
		Args:  args(cobra.NoArgs),
	}
	load := configFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return cfg.Print(a.stdout)
	}
	return cmd
}

func newConfigValidate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check the settings and say everything that is wrong with them",
		Args:  args(cobra.NoArgs),
	}
	load := configFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		if _, err := load(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, "the settings are valid")
		return err
	}
	return cmd
}
