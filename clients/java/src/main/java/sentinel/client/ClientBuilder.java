package sentinel.client;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Builds a {@link SentinelClient}. All settings are optional. */
public final class ClientBuilder {
  private static final int KEEPALIVE_SECONDS = 30; // gateways accept one ping every 10 s
  private static final int KEEPALIVE_TIMEOUT_SECONDS = 10;
  private static final int MAX_CALLS_KEPT_FOR_RETRY = 4; // of the largest size

  private final List<String> addresses;
  private TlsChannelCredentials.Builder tls;
  private String serverName;
  private Supplier<String> apiKey;
  private Duration timeout;
  private boolean mayExposeKey;

  ClientBuilder(List<String> addresses) {
    if (addresses.isEmpty()) {
      throw new IllegalArgumentException("give the address of a gateway, such as 127.0.0.1:50050");
    }
    for (String address : addresses) {
      if (address.matches("https?://.*")) {
        throw new IllegalArgumentException("an address is host:port, without a scheme: " + address);
      }
    }
    this.addresses = addresses;
  }

  /** Uses TLS and trusts the CAs that Java knows. */
  public ClientBuilder tls() {
    tls = tls == null ? TlsChannelCredentials.newBuilder() : tls;
    return this;
  }

  /**
   * Uses TLS and trusts these CAs only.
   *
   * @throws IOException the PEM file cannot be read
   */
  public ClientBuilder tls(Path ca) throws IOException {
    tls().tls.trustManager(ca.toFile());
    return this;
  }

  /**
   * Uses TLS and proves who the client is, to gateways that ask for it.
   *
   * @throws IOException one of the PEM files cannot be read
   */
  public ClientBuilder clientCertificate(Path certificate, Path privateKey) throws IOException {
    tls().tls.keyManager(certificate.toFile(), privateKey.toFile());
    return this;
  }

  /** The name in the gateways' certificate, if it is not that of their addresses. */
  public ClientBuilder serverName(String name) {
    serverName = name;
    return this;
  }

  /** The API key, sent with each call. */
  public ClientBuilder apiKey(String key) {
    return apiKey(() -> key);
  }

  /** Returns the present key or token; asked before each call, in the thread of the call. */
  public ClientBuilder apiKey(Supplier<String> key) {
    apiKey = key;
    return this;
  }

  /** Sends the key without TLS, too. Only if something else encrypts the connection. */
  public ClientBuilder allowKeyWithoutTls() {
    mayExposeKey = true;
    return this;
  }

  /** The time for each call, retries included. Default: 30 s for reads, 120 s for writes. */
  public ClientBuilder timeout(Duration each) {
    timeout = each;
    return this;
  }

  /**
   * Returns the client. It connects with its first call.
   *
   * @throws IllegalArgumentException a key would travel to another machine for all to read
   */
  public SentinelClient build() {
    boolean isSafe = tls != null || addresses.stream().allMatch(ClientBuilder::isLoopback);
    if (apiKey != null && !isSafe && !mayExposeKey) {
      throw new IllegalArgumentException(
          "without TLS, anybody on the way to " + addresses + " can read the API key: call tls()");
    }
    ChannelCredentials credentials =
        tls == null ? InsecureChannelCredentials.create() : tls.build();
    ManagedChannelBuilder<?> channel =
        Grpc.newChannelBuilder(AddressList.target(addresses), credentials)
            .defaultServiceConfig(ServiceConfig.json())
            .disableServiceConfigLookUp()
            .enableRetry()
            .perRpcBufferLimit(SentinelClient.MAX_MESSAGE_BYTES)
            .retryBufferSize((long) MAX_CALLS_KEPT_FOR_RETRY * SentinelClient.MAX_MESSAGE_BYTES)
            .maxInboundMessageSize(SentinelClient.MAX_MESSAGE_BYTES)
            .keepAliveTime(KEEPALIVE_SECONDS, TimeUnit.SECONDS)
            .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true); // to notice a dead connection before the next call
    if (serverName != null) {
      channel.overrideAuthority(serverName);
    }
    return new SentinelClient(channel.build(), new CallDefaults(apiKey, timeout));
  }

  private static boolean isLoopback(String address) {
    String host = AddressList.host(address);
    return host.equals("localhost") || host.equals("::1") || host.matches("127(\\.\\d+){3}");
  }
}
