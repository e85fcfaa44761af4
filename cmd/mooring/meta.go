package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mooring-io/mooring/core/agent"
	"github.com/mooring-io/mooring/core/config"
)

func metaCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "meta", Short: "Back up and restore the metadata"}
	c.AddCommand(metaBackup(g), metaRestore())
	return c
}

func metaBackup(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Write the metadata, as of one moment, to a file", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			tmp := args[0] + ".partial"
			f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return fileError(err)
			}
			n, err := g.client().Download(c.Context(), "/v1/meta/backup", f)
			err = errors.Join(err, f.Sync(), f.Close())
			if err == nil {
				err = os.Rename(tmp, args[0])
			}
			if err != nil {
				return errors.Join(fmt.Errorf("back up the metadata: %w", err), os.Remove(tmp))
			}
			return g.done(c.OutOrStdout(), map[string]int64{"bytes": n}, "%d bytes written to %s", n, args[0])
		},
	}
}

func metaRestore() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "restore FILE", Short: "Fill a node's empty metadata store from a backup, with the agent stopped", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Fill a node's empty metadata store from a backup. The agent must be stopped, and the
former store moved away: rename DATA_DIR/meta. Volumes created after the backup are
unknown afterwards; their data stays in the stores until it is dealt with.`,
		RunE: func(c *cobra.Command, args []string) error {
			if file == "" {
				return &usageError{errors.New("name the node's configuration: -config FILE")}
			}
			cfg, err := config.Load(file)
			if err != nil {
				return &usageError{err}
			}
			if _, err := os.Stat(args[0]); err != nil {
				return fileError(err)
			}
			if err := agent.RestoreMeta(c.Context(), cfg, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "metadata restored into %s\n", cfg.DataDir)
			return err
		},
	}
	c.Flags().StringVar(&file, "config", "", "the node's HCL `file` (required)")
	return c
}
