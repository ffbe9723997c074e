package live

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/postern/postern/graph"
)

const tokenTask = "aws:ecs/taskDefinition:TaskDefinition"

// batch is the number of services that ECS describes at once.
const batch = 10

// taskNetwork is where the tasks of a service have interfaces.
type taskNetwork struct{ subnets, groups, targets []string }

// services reads the services of ECS that have tasks in the networks. A task that no service has
// started is an interface that the proof does not know.
func (r *reader) services() {
	client := ecs.NewFromConfig(r.cfg)
	for _, cluster := range every(r, "ecs:ListClusters", ecs.NewListClustersPaginator(client, &ecs.ListClustersInput{}),
		func(p *ecs.ListClustersOutput) []string { return p.ClusterArns }) {
		names := every(r, "ecs:ListServices", ecs.NewListServicesPaginator(client, &ecs.ListServicesInput{
			Cluster: &cluster,
		}), func(p *ecs.ListServicesOutput) []string { return p.ServiceArns })
		for some := range slices.Chunk(names, batch) {
			out, err := client.DescribeServices(r.ctx, &ecs.DescribeServicesInput{
				Cluster: &cluster, Services: some, Include: []types.ServiceField{types.ServiceFieldTags},
			})
			if !r.answered("ecs:DescribeServices", err) {
				return
			}
			for i := range out.Services {
				r.service(client, &out.Services[i])
			}
		}
	}
}

func (r *reader) service(client *ecs.Client, s *types.Service) {
	if s.NetworkConfiguration == nil || s.NetworkConfiguration.AwsvpcConfiguration == nil ||
		aws.ToString(s.Status) == "INACTIVE" {
		return
	}
	network := s.NetworkConfiguration.AwsvpcConfiguration
	if !slices.ContainsFunc(network.Subnets, func(s string) bool { return r.named[[2]string{tokenSubnet, s}] != nil }) {
		return
	}
	tags := object{}
	for _, t := range s.Tags {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	n := taskNetwork{subnets: network.Subnets, groups: slices.Sorted(slices.Values(network.SecurityGroups))}
	for _, b := range s.LoadBalancers {
		n.targets = append(n.targets, aws.ToString(b.TargetGroupArn))
	}
	r.tasks = append(r.tasks, n)
	x := r.add("aws:ecs/service:Service", aws.ToString(s.ServiceArn), called(tags), object{
		"launchType": launchType(s), "taskDefinition": value(s.TaskDefinition), "tags": tags,
		"networkConfiguration": object{
			"subnets": network.Subnets, "securityGroups": network.SecurityGroups,
			"assignPublicIp": network.AssignPublicIp == types.AssignPublicIpEnabled,
		},
		"loadBalancers": pick(s.LoadBalancers, func(b types.LoadBalancer) object {
			return object{"targetGroupArn": value(b.TargetGroupArn), "containerPort": value(b.ContainerPort)}
		}),
	})
	r.pool(x, tags)
	if len(s.Deployments) > 1 || len(s.TaskSets) > 0 {
		r.add("aws:ecs/taskSet:TaskSet", "a deployment of "+aws.ToString(s.ServiceName), "", object{})
	}
	out, err := client.DescribeTaskDefinition(r.ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: s.TaskDefinition})
	if !r.answered("ecs:DescribeTaskDefinition", err) {
		return
	}
	in := object{"tags": object{graph.TagRole: tags[graph.TagRole]}}
	for property, arn := range map[string]*string{
		"taskRoleArn": out.TaskDefinition.TaskRoleArn, "executionRoleArn": out.TaskDefinition.ExecutionRoleArn,
	} {
		if aws.ToString(arn) != "" {
			in[property] = *arn
			r.needsRole(last(*arn))
		}
	}
	r.add(tokenTask, aws.ToString(s.TaskDefinition), "", in).Parent = x.Parent
}

// launchType returns FARGATE if all of a service's tasks run there.
func launchType(s *types.Service) string {
	if s.LaunchType != "" || len(s.CapacityProviderStrategy) == 0 {
		return string(s.LaunchType)
	}
	for _, p := range s.CapacityProviderStrategy {
		if !strings.HasPrefix(aws.ToString(p.CapacityProvider), "FARGATE") {
			return ""
		}
	}
	return "FARGATE"
}

// ofTask reports whether an interface is that of a task of a service that was read. Its addresses
// are those that the service registers.
func (r *reader) ofTask(n *ec2types.NetworkInterface, about string, groups []string) bool {
	if !strings.HasPrefix(about, "arn:aws") || !strings.Contains(about, ":ecs:") || n.Association != nil {
		return false
	}
	found := false
	for _, t := range r.tasks {
		if !slices.Contains(t.subnets, aws.ToString(n.SubnetId)) || !slices.Equal(t.groups, groups) {
			continue
		}
		found = true
		for _, group := range t.targets {
			r.members[group] = append(r.members[group], aws.ToString(n.PrivateIpAddress))
		}
	}
	return found
}

// last returns what is behind the last slash.
func last(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }
