package healer;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The topology of sf-healer's detector as one writes it with Kafka Streams: decode, repartition by Job, fold into a
 * persistent store with a changelog, command on silence.
 *
 * <p>Arguments {@code name=value}: bootstrap, topic, application, threads, state, commands, mode (drain, restore, run),
 * reports (drain: end after so many), threshold and every (seconds). Prints {@code MARK ...} lines as it goes.
 */
public final class StreamsHealer {
  static final String JOBS = "jobs";
  static final String COMMANDED = "commanded";
  private static final Duration CLOSE_LIMIT = Duration.ofSeconds(60);

  private static final AtomicLong decoded = new AtomicLong();
  private static final AtomicLong folded = new AtomicLong();

  public static void main(String[] arguments) throws Exception {
    Properties given = new Properties();
    for (String argument : arguments) {
      String[] parts = argument.split("=", 2);
      given.setProperty(parts[0], parts[1]);
    }
    KafkaStreams streams = new KafkaStreams(topology(given), settings(given));
    Restored restored = new Restored();
    streams.setGlobalStateRestoreListener(restored);
    CountDownLatch running = new CountDownLatch(1);
    streams.setStateListener((now, before) -> {
      if (now == KafkaStreams.State.RUNNING) {
        running.countDown();
      }
    });
    CountDownLatch told = new CountDownLatch(1);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> close(streams, told)));
    mark("start");
    streams.start();
    switch (given.getProperty("mode")) {
      case "drain" -> drain(Long.parseLong(given.getProperty("reports")));
      case "restore" -> {
        running.await();
        mark("running");
        System.out.printf("RESTORED records=%d seconds=%.3f%n", restored.records.get(), restored.seconds());
      }
      default -> told.await(); // until SIGTERM
    }
    System.out.printf("SCANNED scans=%d jobs=%d seconds=%.6f%n", SilenceProcessor.SCANS.get(),
        SilenceProcessor.SCANNED_JOBS.get(), SilenceProcessor.SCAN_NANOS.get() / 1e9);
    close(streams, told);
    mark("closed");
    Runtime.getRuntime().halt(0);
  }

  private static void close(KafkaStreams streams, CountDownLatch told) {
    streams.close(CloseOptions.timeout(CLOSE_LIMIT)
        .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
    told.countDown();
  }

  private static void drain(long reports) throws InterruptedException {
    while (decoded.get() == 0) {
      Thread.sleep(2);
    }
    mark("first");
    while (folded.get() < reports) {
      Thread.sleep(2);
    }
    mark("last");
  }

  private static Properties settings(Properties given) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.getProperty("application"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.getProperty("bootstrap"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, given.getProperty("state"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Integer.parseInt(given.getProperty("threads")));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    // Repartition topics keep what went through them, so that it can be counted; less work for both sides.
    settings.put(StreamsConfig.REPARTITION_PURGE_INTERVAL_MS_CONFIG, Long.MAX_VALUE);
    return settings;
  }

  private static Topology topology(Properties given) {
    Serde<Json.Report> reports = Json.serde(Json.Report.class);
    double threshold = Double.parseDouble(given.getProperty("threshold"));
    Duration every = Duration.ofMillis((long) (1000 * Double.parseDouble(given.getProperty("every"))));
    StreamsBuilder builder = new StreamsBuilder();
    builder.addStateStore(Stores.keyValueStoreBuilder(
        Stores.persistentKeyValueStore(COMMANDED), Serdes.String(), Serdes.Double()));
    KTable<String, Json.Job> jobs = builder
        .stream(given.getProperty("topic"), Consumed.with(Serdes.String(), reports))
        .selectKey((none, report) -> keyOf(report))
        .groupByKey(Grouped.with("job", Serdes.String(), reports))
        .aggregate(Json.Job::new, (key, report, job) -> fold(report, job), Named.as("fold"),
            Materialized.<String, Json.Job, KeyValueStore<Bytes, byte[]>>as(JOBS)
                .withKeySerde(Serdes.String())
                .withValueSerde(Json.serde(Json.Job.class)));
    jobs.toStream()
        .process(() -> new SilenceProcessor(threshold, every), JOBS, COMMANDED)
        .to(given.getProperty("commands"), Produced.with(Serdes.String(), Json.serde(Json.Command.class)));
    return builder.build();
  }

  private static String keyOf(Json.Report report) {
    decoded.incrementAndGet();
    int separator = report.producer.indexOf("__");
    return report.queue_id + "/" + (separator < 0 ? report.producer : report.producer.substring(0, separator));
  }

  private static Json.Job fold(Json.Report report, Json.Job job) {
    folded.incrementAndGet();
    if (job.reports == 0) {
      job.started = report.sent_at;
    }
    if (report.sent_at > job.last_loading) {
      job.last_loading = report.sent_at;
      job.status = report.status;
    }
    job.reports++;
    return job;
  }

  private static void mark(String moment) {
    System.out.printf("MARK %s %.3f%n", moment, System.currentTimeMillis() / 1000.0);
    System.out.flush();
  }

  /** From the first restoration's begin to the last one's end. */
  private static final class Restored implements StateRestoreListener {
    final AtomicLong records = new AtomicLong();
    private final AtomicLong beganNanos = new AtomicLong(Long.MAX_VALUE);
    private final AtomicLong endedNanos = new AtomicLong();

    @Override
    public void onRestoreStart(TopicPartition partition, String store, long from, long to) {
      beganNanos.accumulateAndGet(System.nanoTime(), Math::min);
    }

    @Override
    public void onBatchRestored(TopicPartition partition, String store, long end, long restored) {
      records.addAndGet(restored);
    }

    @Override
    public void onRestoreEnd(TopicPartition partition, String store, long total) {
      endedNanos.accumulateAndGet(System.nanoTime(), Math::max);
    }

    double seconds() {
      return records.get() == 0 ? 0 : (endedNanos.get() - beganNanos.get()) / 1e9;
    }
  }

  private StreamsHealer() {}
}
