package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

func newOperatorCmd() *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "operator [--store URL]",
		Short: "Make this user an operator of a stack that runs elsewhere, and print the public key",
		Long: `Use this for a stack whose control planes are on other machines. It makes the key that signs this
user's publications, unless there is one, and prints the public half. Add the public half to the file
that the stack file names as "operators".

If the stack file loads, the command also copies from it whom to trust: the operators, and the
authority that vouches for the control planes' reports. Run it again after either has changed.`,
		Example: `  postern operator -s prod-aws >> stacks/prod-aws.operators.pem
  postern operator -s prod-aws --store 's3://BUCKET?region=eu-west-1'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := stackFile(cmd)
			if err != nil {
				return err
			}
			// The key and the store are of the stack that a person means: see [home.Folder.Claim].
			home, err := publish.RefuseUnmeant(file)
			if err != nil {
				return err
			}
			if err := home.Claim(file.Owner()); err != nil {
				return err
			}
			if err := bundle.MakeKey(home.OperatorKey(), home.Trusted()); err != nil {
				return err
			}
			public, err := bundle.PublicKey(home.OperatorKey())
			if err != nil {
				return err
			}
			if store != "" {
				if err := atomicfile.Write(home.StoreFile(), []byte(store+"\n"), 0o644); err != nil {
					return fmt.Errorf("keep where the store is: %w", err)
				}
			}
			if _, err := cmd.OutOrStdout().Write(public); err != nil {
				return err
			}
			stack, err := file.Load()
			if err != nil {
				visible.Error(cmd.ErrOrStderr(), "the stack file does not load yet, so whom it trusts was not taken from it:", err)
				return nil
			}
			if stack.Target != stacks.TargetAWS {
				return nil // up has written whom it trusts
			}
			return publish.Trust(home, stack, public)
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "where the stack's publications are: s3://BUCKET?region=REGION or gs://BUCKET, the output \"store\" of up")
	return cmd
}
