package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/postern/postern/home"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/cache"
)

// remoteNodes says how the control plane serves nodes on other machines.
type remoteNodes struct {
	// listen is HOST:PORT; "" means that there are none.
	listen string
	stack  string
	// ca, key and tokens are places for [svid.Read].
	ca, key, tokens string
	// agentsCA and agentsKey are the certificate and the key of the agents' authority.
	agentsCA, agentsKey string
}

func (r *remoteNodes) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.listen, "xds-listen", "", "HOST:PORT for nodes on other machines (mutual TLS); none if empty")
	cmd.Flags().StringVar(&r.stack, "stack", "", "the stack's name in the nodes' certificates (default: the name in --home)")
	cmd.Flags().StringVar(&r.ca, "fleet-ca", "", "the fleet authority's certificate: a file or env://NAME (default: HOME/fleet/ca.pem)")
	cmd.Flags().StringVar(&r.key, "fleet-ca-key", "", "the fleet authority's key: a file or env://NAME (default: HOME/fleet/ca.key)")
	cmd.Flags().StringVar(&r.agentsCA, "ca-cert", "", "the agents' authority's certificate: a file or env://NAME (default: in HOME)")
	cmd.Flags().StringVar(&r.agentsKey, "ca-key", "", "the agents' authority's key: a file, env://NAME or, if it stays in AWS KMS, awskms://KEY-ID?region=R or awskms://alias/NAME?region=R (default: in HOME)")
	cmd.Flags().StringVar(&r.tokens, "join-tokens", "", "the hashes of the tokens with which nodes join: a file or env://NAME (default: HOME/fleet/tokens)")
}

// server returns the port's server, or nil if there is none.
func (r *remoteNodes) server(home home.Folder, log *slog.Logger) (*svid.Server, error) {
	if r.listen == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	dir := fleetDir{filepath.Join(home.Root, "fleet")}
	ca, key, tokens := or(r.ca, dir.cert()), or(r.key, dir.key()), or(r.tokens, dir.tokens())
	certPEM, err := svid.Read(ca)
	if err != nil {
		return nil, fmt.Errorf("read the fleet's authority: %w; make one with `posternd authority`", err)
	}
	keyPEM, err := svid.Read(key)
	if err != nil {
		return nil, fmt.Errorf("read the fleet authority's key: %w", err)
	}
	authority, err := svid.LoadAuthority(or(r.stack, home.Stack()), certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return &svid.Server{
		Authority: authority, Log: log,
		Tokens: func() (svid.Tokens, error) {
			b, err := svid.Read(tokens)
			if err != nil {
				return svid.Tokens{}, err
			}
			return svid.ParseTokens(b)
		},
	}, nil
}

// serve opens the port. What it returns is not served yet.
func (r *remoteNodes) serve(ctx context.Context, s *svid.Server) (*grpc.Server, net.Listener, error) {
	if _, _, err := net.SplitHostPort(r.listen); err != nil {
		return nil, nil, fmt.Errorf("--xds-listen: %w", err)
	}
	l, err := s.Listen(ctx, r.listen)
	if err != nil {
		return nil, nil, err
	}
	return grpc.NewServer(append(grpcOptions(), grpc.Creds(svid.Credentials()))...), l, nil
}

// grpcOptions are the options of every xDS server.
func grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		cache.ServerOption(),
		grpc.MaxConcurrentStreams(1000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		// A node looks every 10 s whether its control plane is there.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

func or(value, standard string) string {
	if value == "" {
		return standard
	}
	return value
}
