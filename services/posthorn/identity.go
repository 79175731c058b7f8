package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func newUser(a *app) *cobra.Command {
	return newResource(a, noun[*posthornv1.User]{
		name: "user", plural: "users",
		short: "People who may sign in",
		example: `  posthorn user apply -f - <<EOF
  name: ann
  roles: [subscriptions:write, events:read]
  password: …
  EOF`,
		collection: func(c *client.Client) *client.Collection[*posthornv1.User] { return c.Users },
		empty:      func() *posthornv1.User { return new(posthornv1.User) },
		header:     []string{"NAME", "ROLES", "STATE", "AGE"},
		row: func(u *posthornv1.User) []string {
			state := "active"
			switch {
			case u.GetDisabled():
				state = "disabled"
			case u.GetLockedUntil().AsTime().After(time.Now()):
				state = "locked"
			}
			return []string{u.GetName(), strings.Join(u.GetRoles(), ","), state, age(u.GetMeta().GetCreatedAt(), time.Now())}
		},
	})
}

func newKey(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "key", Aliases: []string{"keys"}, Short: "API keys, of programs"},
		newKeyList(a), newKeyCreate(a), newKeyDelete(a))
}

func newKeyList(a *app) *cobra.Command {
	var opts client.ListOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List API keys, without the keys themselves",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			now := time.Now()
			return showList(a, c.ListKeys(cmd.Context(), opts), 0, protoDoc[*posthornv1.ApiKey],
				[]string{"NAME", "KEY", "ROLES", "EXPIRES", "LAST USED", "AGE"},
				func(k *posthornv1.ApiKey) []string {
					expires, used := "never", "never"
					if k.GetExpiresAt() != nil {
						expires = clock(k.GetExpiresAt())
					}
					if k.GetLastUsedAt() != nil {
						used = age(k.GetLastUsedAt(), now) + " ago"
					}
					return []string{k.GetName(), k.GetPrefix() + "…", strings.Join(k.GetRoles(), ","), expires, used, age(k.GetMeta().GetCreatedAt(), now)}
				})
		},
	}
	cmd.Flags().StringVar(&opts.Search, "search", "", "only names with this in them")
	cmd.Flags().StringVar(&opts.OrderBy, "order-by", "name asc", "name or created, asc or desc")
	return cmd
}

func newKeyCreate(a *app) *cobra.Command {
	key := new(posthornv1.ApiKey)
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:     "create <name>",
		Short:   "Make an API key, which is shown once",
		Example: "  posthorn key create ci --role events:write --expires-in 2160h",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key.Name = args[0]
			if lifetime < 0 {
				return usageError{cmd, errors.New("--expires-in must not be negative")}
			}
			if lifetime > 0 {
				key.ExpiresAt = timestamppb.New(time.Now().Add(lifetime))
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			made, err := c.CreateKey(cmd.Context(), key)
			if err != nil {
				return err
			}
			if a.output == formatTable {
				fmt.Fprintf(a.stdout, "key %s created\n  the key, shown only now: %s\n", oneLine(made.GetName()), oneLine(made.GetKey()))
				return nil
			}
			doc, err := protoJSON(made)
			if err != nil {
				return err
			}
			return a.showUnlessTable(doc)
		},
	}
	f := cmd.Flags()
	f.StringVar(&key.Description, "description", "", "what it is for")
	f.StringSliceVar(&key.Roles, "role", nil, "what it may do, for instance events:write (repeatable)")
	f.DurationVar(&lifetime, "expires-in", 0, "how long it is good; 0 is for ever")
	return cmd
}

func newKeyDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete <name>…",
		Short: "End the use of API keys",
		Args:  args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := c.DeleteKey(cmd.Context(), name); err != nil {
					return fmt.Errorf("key %s: %w", name, err)
				}
				fmt.Fprintf(a.stdout, "key %s deleted\n", oneLine(name))
			}
			return nil
		},
	}
}

func newSignIn(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "signin <name>",
		Short: "Get a token for a user's password",
		Long: "Get a token for a user's password, which is asked for, or read from standard input if that is no\n" +
			"terminal. The token alone goes to standard output: export POSTHORN_API_KEY=$(posthorn signin ann)",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := a.password()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			session, err := c.SignIn(cmd.Context(), args[0], password)
			if err != nil {
				return err
			}
			if a.output != formatTable {
				doc, err := protoJSON(session)
				if err != nil {
					return err
				}
				return a.showUnlessTable(doc)
			}
			fmt.Fprintln(a.stdout, session.GetToken())
			fmt.Fprintf(a.stderr, "good until %s\n", clock(session.GetExpiresAt()))
			return nil
		},
	}
}

// password asks for one without showing it, or reads a line.
func (a *app) password() (string, error) {
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(a.stderr, "password: ")
		typed, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		return string(typed), nil
	}
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usageError{err: errors.Join(errors.New("there is no password on standard input"), err)}
	}
	return line, nil
}

func newWhoAmI(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Who the key or token belongs to, and what it may do",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			who, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			doc, err := protoJSON(who)
			if err != nil {
				return err
			}
			return a.show(doc, func(t *table) {
				t.row("name", who.GetName())
				t.row("roles", strings.Join(who.GetRoles(), " "))
			})
		},
	}
}
