package sentinel.client;

import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;

/**
 * Several addresses as one gRPC target, {@code sentinel:///a:50050,b:50050}. gRPC for Java has no
 * scheme for that.
 *
 * <p>A host that is unknown at the moment does not keep gRPC from the others. Each certificate is
 * checked against the name of its own host.
 */
final class AddressList extends NameResolver {
  private static final String SCHEME = "sentinel";

  static {
    NameResolverRegistry.getDefaultRegistry().register(new Provider());
  }

  private final List<String> addresses;
  private final Args args;
  private Listener listener;
  private boolean isResolving;

  private AddressList(List<String> addresses, Args args) {
    this.addresses = addresses;
    this.args = args;
  }

  /** Returns the gRPC target of one or more addresses. One may be any target that gRPC knows. */
  static String target(List<String> addresses) {
    return addresses.size() == 1
        ? addresses.get(0)
        : SCHEME + ":///" + String.join(",", addresses);
  }

  /** Returns the host of {@code host:port}, {@code [ipv6]:port} or {@code dns:///host:port}. */
  static String host(String address) {
    String host = hostAndPort(address).getHost();
    return host == null ? "" : host.replaceAll("[\\[\\]]", "");
  }

  private static URI hostAndPort(String address) {
    return URI.create("//" + address.replaceFirst("^[a-z]+:///", ""));
  }

  @Override
  public String getServiceAuthority() {
    return addresses.get(0);
  }

  @Override
  public void start(Listener listener) {
    this.listener = listener;
    refresh();
  }

  @Override
  public void refresh() {
    if (isResolving) {
      return;
    }
    isResolving = true;
    Executor executor = args.getOffloadExecutor();
    Runnable resolving =
        () -> {
          List<EquivalentAddressGroup> found = new ArrayList<>();
          List<String> unknown = new ArrayList<>();
          addresses.forEach(address -> resolve(address, found, unknown));
          args.getSynchronizationContext().execute(() -> report(found, unknown));
        };
    if (executor == null) {
      new Thread(resolving, "sentinel-addresses").start();
    } else {
      executor.execute(resolving);
    }
  }

  private static void resolve(
      String address, List<EquivalentAddressGroup> found, List<String> unknown) {
    URI parsed = hostAndPort(address);
    Attributes authority =
        Attributes.newBuilder()
            .set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, address)
            .build();
    try {
      for (InetAddress ip : InetAddress.getAllByName(host(address))) {
        InetSocketAddress socket = new InetSocketAddress(ip, parsed.getPort());
        found.add(new EquivalentAddressGroup(socket, authority));
      }
    } catch (UnknownHostException error) {
      unknown.add(address);
    }
  }

  private void report(List<EquivalentAddressGroup> found, List<String> unknown) {
    isResolving = false;
    if (found.isEmpty()) {
      listener.onError(Status.UNAVAILABLE.withDescription("unknown hosts: " + unknown));
    } else {
      listener.onAddresses(found, Attributes.EMPTY);
    }
  }

  @Override
  public void shutdown() {}

  private static final class Provider extends NameResolverProvider {
    @Override
    public NameResolver newNameResolver(URI target, Args args) {
      return target.getScheme().equals(SCHEME)
          ? new AddressList(List.of(target.getPath().substring(1).split(",")), args)
          : null;
    }

    @Override
    public String getDefaultScheme() {
      return SCHEME;
    }

    @Override
    protected boolean isAvailable() {
      return true;
    }

    @Override
    protected int priority() {
      return 0; // never the default for targets without a scheme
    }
  }
}
