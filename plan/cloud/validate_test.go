package cloud

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// valid returns settings that AWS takes, and the policy for which they are.
func valid() (*AWS, *plan.Plan) {
	image := "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x@sha256:" + strings.Repeat("0", 64)
	return &AWS{
		Account: "123456789012", Region: "eu-west-1", Mode: ModeIsolated, Zones: []string{"eu-west-1a", "eu-west-1c"},
		AgentsCIDR: netip.MustParsePrefix("10.64.0.0/20"), EgressCIDR: netip.MustParsePrefix("10.80.0.0/20"),
		Image: image,
		Agents: []Agent{
			{
				Name: "coder", Port: 10001, Compute: ComputeEC2, Runtime: "gvisor", Image: image, Count: 1,
				AMI: "ami-0123456789abcdef0", Instance: "m7i.large", Disk: 30, Metadata: MetadataV2,
			},
			{Name: "tester", Port: 10002, Compute: ComputeFargate, Image: image, CPU: 1024, Memory: 2048},
		},
		Proxies: Proxies{Compute: ComputeFargate, Min: 2, Max: 6, CPU: 1024, Memory: 2048},
		Control: Control{Replicas: 2, CPU: 512, Memory: 1024},
		Audit:   Audit{Retention: 400, Lock: 365, Expire: 730, Email: "a@example.com"},
		Tags:    map[string]string{"team": "platform"},
	}, &plan.Plan{Stack: "prod", Agents: []plan.Agent{{Name: "coder", Port: 10001}, {Name: "tester", Port: 10002}}}
}

// TestValidate: each mistake that the loader of stack files refuses is refused of a program, too,
// by the setting's name.
func TestValidate(t *testing.T) {
	t.Parallel()
	a, p := valid()
	require.NoError(t, a.Validate(p))
	ten := func(a *AWS, p *plan.Plan, n int) {
		agent := a.Agents[0]
		a.Agents, p.Agents = nil, nil
		for i := range n {
			agent.Name, agent.Port = "agent-"+string(rune('a'+i/26))+string(rune('a'+i%26)), uint16(FirstPort+i)
			a.Agents = append(a.Agents, agent)
			p.Agents = append(p.Agents, plan.Agent{Name: agent.Name, Port: agent.Port})
		}
	}
	machines := Proxies{Compute: ComputeEC2, Min: 2, Max: 6, Instance: "c7i.large", AMI: "ami-0123456789abcdef0"}
	shared := func(a *AWS) {
		a.Mode, a.VPC = ModeShared, netip.MustParsePrefix("10.64.0.0/19")
		a.AgentsCIDR, a.EgressCIDR = Halves(a.VPC)
		a.Agents[1] = a.Agents[0]
		a.Agents[1].Name, a.Agents[1].Port = "tester", 10002
	}
	for want, change := range map[string]func(a *AWS, p *plan.Plan){
		"stack: \"Prod\"":               func(_ *AWS, p *plan.Plan) { p.Stack = "Prod" },
		"stack: \"a/b\"":                func(_ *AWS, p *plan.Plan) { p.Stack = "a/b" },
		"account: write":                func(a *AWS, _ *plan.Plan) { a.Account = "1234" },
		"region: ":                      func(a *AWS, _ *plan.Plan) { a.Region = "mars-1" },
		"mode: ":                        func(a *AWS, _ *plan.Plan) { a.Mode = "" },
		"there are 0 zones":             func(a *AWS, _ *plan.Plan) { a.Zones = nil },
		"\"\" is not a zone":            func(a *AWS, _ *plan.Plan) { a.Zones = []string{""} },
		"\"us-east-1a\" is not a zone":  func(a *AWS, _ *plan.Plan) { a.Zones[0] = "us-east-1a" },
		"\"eu-west-1g\" is not a zone":  func(a *AWS, _ *plan.Plan) { a.Zones[0] = "eu-west-1g" },
		"\"eu-west-1a\" is there twice": func(a *AWS, _ *plan.Plan) { a.Zones[1] = "eu-west-1a" },
		"agents: invalid Prefix":        func(a *AWS, _ *plan.Plan) { a.AgentsCIDR = netip.Prefix{} },
		"egress: 8.0.0.0/20":            func(a *AWS, _ *plan.Plan) { a.EgressCIDR = netip.MustParsePrefix("8.0.0.0/20") },
		"overlap":                       func(a *AWS, _ *plan.Plan) { a.EgressCIDR = a.AgentsCIDR },
		"no range vpc":                  func(a *AWS, _ *plan.Plan) { a.VPC = a.AgentsCIDR },
		"network: vpc: ":                func(a *AWS, _ *plan.Plan) { shared(a); a.VPC = netip.Prefix{} },
		"are not the halves":            func(a *AWS, _ *plan.Plan) { shared(a); a.EgressCIDR = a.AgentsCIDR },
		"image: \"x:latest\"":           func(a *AWS, _ *plan.Plan) { a.Image = "x:latest" },
		"image: image docker.io/x":      func(a *AWS, _ *plan.Plan) { a.Image = "docker.io/x@sha256:" + strings.Repeat("0", 64) },
		"proxies.min":                   func(a *AWS, _ *plan.Plan) { a.Proxies.Min = 0 },
		"proxies.max":                   func(a *AWS, _ *plan.Plan) { a.Proxies.Max = 1 },
		"proxies.compute":               func(a *AWS, _ *plan.Plan) { a.Proxies.Compute = "" },
		"proxies: Fargate has no size":  func(a *AWS, _ *plan.Plan) { a.Proxies.Memory = 100 },
		"proxies.instance":              func(a *AWS, _ *plan.Plan) { a.Proxies = machines; a.Proxies.Instance = "big" },
		"proxies.ami":                   func(a *AWS, _ *plan.Plan) { a.Proxies = machines; a.Proxies.AMI = "" },
		"serve at most 5 agents":        func(a *AWS, p *plan.Plan) { ten(a, p, 6) },
		"more than 50":                  func(a *AWS, p *plan.Plan) { ten(a, p, 51); a.Proxies = machines },
		"are 600 targets":               func(a *AWS, p *plan.Plan) { ten(a, p, 50); a.Proxies = machines; a.Proxies.Max = 12 },
		"control.replicas":              func(a *AWS, _ *plan.Plan) { a.Control.Replicas = 0 },
		"control: Fargate":              func(a *AWS, _ *plan.Plan) { a.Control.CPU = 7 },
		"for 401 days":                  func(a *AWS, _ *plan.Plan) { a.Audit.Retention = 401 },
		"audit.lock":                    func(a *AWS, _ *plan.Plan) { a.Audit.Lock = -1 },
		"audit.expire":                  func(a *AWS, _ *plan.Plan) { a.Audit.Expire = 364 },
		"audit.email":                   func(a *AWS, _ *plan.Plan) { a.Audit.Email = "nobody" },
		"\"aws:x\" is not a valid tag":  func(a *AWS, _ *plan.Plan) { a.Tags = map[string]string{"aws:x": ""} },
		"postern:role is Postern's":     func(a *AWS, _ *plan.Plan) { a.Tags = map[string]string{"postern:role": ""} },
		"agents: the policy":            func(a *AWS, _ *plan.Plan) { a.Agents = a.Agents[:1] },
		"agent coder has the port":      func(a *AWS, _ *plan.Plan) { a.Agents[1].Port = 10001 },
		"has another port":              func(_ *AWS, p *plan.Plan) { p.Agents[1].Port = 10003 },
		"port 18080 is not for agents":  func(a *AWS, _ *plan.Plan) { a.Agents[0].Port = 18080 },
		"agents.coder.count":            func(a *AWS, _ *plan.Plan) { a.Agents[0].Count = -1 },
		"agents.coder: \"\" is not an":  func(a *AWS, _ *plan.Plan) { a.Agents[0].Image = "" },
		"agents.coder.compute":          func(a *AWS, _ *plan.Plan) { a.Agents[0].Compute = "" },
		"agents.coder.runtime":          func(a *AWS, _ *plan.Plan) { a.Agents[0].Runtime = "none" },
		"agents.coder.instance":         func(a *AWS, _ *plan.Plan) { a.Agents[0].Instance = "" },
		"bare-metal":                    func(a *AWS, _ *plan.Plan) { a.Agents[0].Runtime = "vm" },
		"agents.coder.ami":              func(a *AWS, _ *plan.Plan) { a.Agents[0].AMI = "ami-x" },
		"agents.coder.disk":             func(a *AWS, _ *plan.Plan) { a.Agents[0].Disk = 0 },
		"agents.coder.metadata":         func(a *AWS, _ *plan.Plan) { a.Agents[0].Metadata = "v1" },
		"agents.tester.runtime":         func(a *AWS, _ *plan.Plan) { a.Agents[1].Runtime = "gvisor" },
		"agents.tester: Fargate has no": func(a *AWS, _ *plan.Plan) { a.Agents[1].CPU = 3 },
		"agents.tester: Fargate needs":  func(a *AWS, _ *plan.Plan) { a.Mode = ModeShared },
		"agents.tester: image other/x": func(a *AWS, _ *plan.Plan) {
			a.Agents[1].Image = "other/x@sha256:" + strings.Repeat("0", 64)
		},
		"credential a: ": func(_ *AWS, p *plan.Plan) {
			p.Credentials = []plan.Credential{{Name: "a", Secret: "nonsense"}}
		},
		"does not read secrets of env://": func(_ *AWS, p *plan.Plan) {
			p.Credentials = []plan.Credential{{Name: "a", Secret: "env://A"}}
		},
		"its own region only": func(_ *AWS, p *plan.Plan) {
			p.Credentials = []plan.Credential{{Name: "a", Secret: "awssecretsmanager://a?region=us-east-1"}}
		},
		"resolvers: \"[fd00::1]:53\"": func(_ *AWS, p *plan.Plan) { p.Resolvers = []string{"[fd00::1]:53"} },
	} {
		a, p := valid()
		change(a, p)
		require.ErrorContains(t, a.Validate(p), want)
	}
	a, p = valid()
	a.Account, a.Control.Replicas = "", 0
	require.Len(t, strings.Split(a.Validate(p).Error(), "\n"), 2+2,
		"all at once, and the images that are now elsewhere")
}
