package cloud_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// standInName is what the engine looks for in PATH. The real plugin cannot be
// had here, so this binary is it when it is called so: it makes nothing, and
// keeps a list of what it would have made in the file $STANDIN.
const standInName = "pulumi-resource-aws"

// made is one resource of the list, by its ID.
type made struct {
	URN, Type, Name string
	// Place is what only one resource can have, such as the number of a rule in its ACL; "" for none.
	Place string
	// Hand is what somebody has written into its tags by hand.
	Hand string
}

// standInState is the file.
type standInState struct {
	Made map[string]made
	// Fail is the name of a resource, and With what its creation fails.
	Fail, With string
	// Held is the name of another one: its creation waits until Fail has failed,
	// and fails too. The engine lets nothing begin then, but ends what has begun.
	Held string
}

func readStandIn(path string) (standInState, error) {
	s := standInState{Made: map[string]made{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func writeStandIn(path string, s standInState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

type standIn struct {
	pulumirpc.UnimplementedResourceProviderServer
	mu     sync.Mutex
	path   string
	fail   sync.Once
	failed chan struct{} // closed by fail, when a creation has failed
}

// serveStandIn is the main function of the plugin.
func serveStandIn() error {
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Init: func(s *grpc.Server) error {
			pulumirpc.RegisterResourceProviderServer(s, &standIn{path: os.Getenv("STANDIN"), failed: make(chan struct{})})
			return nil
		},
	})
	if err != nil {
		return err
	}
	fmt.Println(handle.Port) // the engine reads it
	return <-handle.Done
}

func (s *standIn) read() (standInState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return readStandIn(s.path)
}

func (*standIn) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: "6.83.0"}, nil
}

func (*standIn) CheckConfig(_ context.Context, r *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	return &pulumirpc.CheckResponse{Inputs: r.GetNews()}, nil
}

func (*standIn) DiffConfig(context.Context, *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	return &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_NONE}, nil
}

func (*standIn) Configure(context.Context, *pulumirpc.ConfigureRequest) (*pulumirpc.ConfigureResponse, error) {
	return &pulumirpc.ConfigureResponse{SupportsPreview: true}, nil
}

func (*standIn) Cancel(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (*standIn) Check(_ context.Context, r *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	return &pulumirpc.CheckResponse{Inputs: r.GetNews()}, nil
}

func (*standIn) Diff(_ context.Context, r *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	if proto.Equal(r.GetOldInputs(), r.GetNews()) {
		return &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_NONE}, nil
	}
	if strings.Contains(r.GetUrn(), ":NetworkAclRule::") { // which cannot be changed
		return &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_SOME, Replaces: []string{"ruleNumber"}}, nil
	}
	return &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_SOME}, nil
}

func (s *standIn) Create(_ context.Context, r *pulumirpc.CreateRequest) (*pulumirpc.CreateResponse, error) {
	urn := resource.URN(r.GetUrn())
	out := &structpb.Struct{Fields: maps.Clone(r.GetProperties().GetFields())}
	if out.Fields == nil {
		out.Fields = map[string]*structpb.Value{}
	}
	if r.GetPreview() {
		return &pulumirpc.CreateResponse{Properties: out}, nil
	}
	state, err := s.read()
	if err != nil {
		return nil, err
	}
	switch urn.Name() {
	case state.Fail:
		s.fail.Do(func() { close(s.failed) })
		return nil, errors.New(state.With)
	case state.Held:
		<-s.failed
		return nil, errors.New("held until " + state.Fail + " had failed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state, err = readStandIn(s.path); err != nil {
		return nil, err
	}
	kind := string(urn.Type())[strings.LastIndexByte(string(urn.Type()), ':')+1:]
	id := kind + "-" + strings.ToLower(rand.Text()[:12])
	for _, key := range []string{"defaultRouteTableId", "defaultSecurityGroupId", "defaultNetworkAclId", "keyId", "publicIp", "serviceName", "prefixListId", "arnSuffix", "name", "bucket"} {
		if _, given := out.Fields[key]; !given {
			out.Fields[key] = structpb.NewStringValue(key + "-of-" + id)
		}
	}
	out.Fields["arn"] = structpb.NewStringValue("arn:aws:" + strings.ToLower(kind) + ":eu-west-1:123456789012:" + id)
	if kind == "VpcEndpointService" {
		out.Fields["serviceName"] = structpb.NewStringValue("com.amazonaws.vpce.eu-west-1.vpce-svc-" + strings.ToLower(id))
	}
	out.Fields["latestVersion"] = structpb.NewNumberValue(1)
	m := made{URN: string(urn), Type: string(urn.Type()), Name: urn.Name()}
	if kind == "NetworkAclRule" {
		f := r.GetProperties().GetFields()
		m.Place = fmt.Sprint(f["networkAclId"].GetStringValue(), f["egress"].GetBoolValue(), f["ruleNumber"].GetNumberValue())
		for _, other := range state.Made {
			if other.Place == m.Place {
				return nil, fmt.Errorf("creating EC2 Network ACL Rule: api error NetworkAclEntryAlreadyExists: the rule %s exists", m.Place)
			}
		}
	}
	// Something that others fill in later.
	out.Fields["computed"] = structpb.NewStringValue("when it was made")
	state.Made[id] = m
	return &pulumirpc.CreateResponse{Id: id, Properties: out}, writeStandIn(s.path, state)
}

func (s *standIn) Read(_ context.Context, r *pulumirpc.ReadRequest) (*pulumirpc.ReadResponse, error) {
	state, err := s.read()
	if err != nil {
		return nil, err
	}
	m, there := state.Made[r.GetId()]
	if !there {
		return &pulumirpc.ReadResponse{}, nil
	}
	properties, inputs := proto.CloneOf(r.GetProperties()), proto.CloneOf(r.GetInputs())
	properties.Fields["computed"] = structpb.NewStringValue("later")
	if m.Hand != "" {
		inputs.Fields["description"] = structpb.NewStringValue(m.Hand)
	}
	return &pulumirpc.ReadResponse{Id: r.GetId(), Properties: properties, Inputs: inputs}, nil
}

func (*standIn) Update(_ context.Context, r *pulumirpc.UpdateRequest) (*pulumirpc.UpdateResponse, error) {
	out := maps.Clone(r.GetOlds().GetFields())
	maps.Copy(out, r.GetNews().GetFields())
	return &pulumirpc.UpdateResponse{Properties: &structpb.Struct{Fields: out}}, nil
}

func (s *standIn) Delete(_ context.Context, r *pulumirpc.DeleteRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, err := readStandIn(s.path)
	if err != nil {
		return nil, err
	}
	if _, there := state.Made[r.GetId()]; !there {
		return nil, fmt.Errorf("there is no %s", r.GetId())
	}
	if err := refused(state.Made[r.GetId()], r.GetProperties()); err != nil {
		return nil, err
	}
	delete(state.Made, r.GetId())
	return &emptypb.Empty{}, writeStandIn(s.path, state)
}

// Invoke answers which networks have the tags of a stack.
func (s *standIn) Invoke(_ context.Context, r *pulumirpc.InvokeRequest) (*pulumirpc.InvokeResponse, error) {
	if r.GetTok() != "aws:ec2/getVpcs:getVpcs" {
		return nil, fmt.Errorf("the stand-in does not know %s", r.GetTok())
	}
	stack := r.GetArgs().GetFields()["tags"].GetStructValue().GetFields()["postern:stack"].GetStringValue()
	state, err := s.read()
	if err != nil {
		return nil, err
	}
	ids := []any{}
	for id, m := range state.Made {
		if strings.HasSuffix(m.Type, ":Vpc") && string(resource.URN(m.URN).Stack()) == stack {
			ids = append(ids, id)
		}
	}
	out, err := structpb.NewStruct(map[string]any{"id": r.GetTok(), "ids": ids})
	return &pulumirpc.InvokeResponse{Return: out}, err
}

// refused is AWS's answer, if it deletes no such thing as it is. Every bucket
// has something in it by the time that it is deleted: the provider empties those
// that have forceDestroy, where nothing is locked.
func refused(m made, state *structpb.Struct) error {
	is := func(key string) bool { return state.GetFields()[key].GetBoolValue() }
	switch kind := m.Type[strings.LastIndexByte(m.Type, ':')+1:]; {
	case kind == "BucketV2" && is("objectLockEnabled"):
		return errors.New("deleting S3 Bucket: api error AccessDenied: Access Denied because object protected by object lock")
	case kind == "BucketV2" && !is("forceDestroy"):
		return errors.New("deleting S3 Bucket: api error BucketNotEmpty: The bucket you tried to delete is not empty")
	case kind == "ResolverFirewallRuleGroupAssociation" && state.GetFields()["mutationProtection"].GetStringValue() == "ENABLED":
		return errors.New("deleting Route53 Resolver Firewall Rule Group Association: api error ValidationException: the association is protected from mutation")
	case kind == "LoadBalancer" && is("enableDeletionProtection"):
		return errors.New("deleting ELBv2 Load Balancer: api error OperationNotPermitted: Load balancer cannot be deleted because deletion protection is enabled")
	}
	return nil
}

// isStandIn reports whether the engine has started this binary as the plugin.
func isStandIn() bool { return filepath.Base(os.Args[0]) == standInName }
